"""Checkpoints of SpeechBrain's models, and of the SummaryMixing authors' format, as our bundles."""
