"""Corpora: manifests, audio reading, tokenizers, datasets, and the synthetic demo corpus."""

from summarymixing_modules.compat import check_environment

check_environment()  # before SpeechBrain is imported, which would end in a riddle
