"""Models of speech recognition, their losses and searches, and language models."""
