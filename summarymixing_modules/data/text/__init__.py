"""Transcripts and meanings as text, and the tokens of it."""
