"""Measured cost of mixers. Nothing is timed before it was checked against its naive form."""
