"""Corpora in a few large tar files instead of many small ones, for file systems of clusters.

`members` reads audio out of a shard, `tar` writes one, `writing` writes those of a corpus, and
`folder` knows what a folder of shards holds and whether it is whole.
"""
