"""Corpora: the public layout of each, read, examined and written as manifests."""
