"""The synthetic corpus of the demo: sentences, voices, audio."""
