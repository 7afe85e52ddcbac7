"""Corpora: manifests, audio reading, tokenizers, datasets, and the synthetic demo corpus."""
