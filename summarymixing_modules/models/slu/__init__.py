"""Models of spoken-language understanding."""
