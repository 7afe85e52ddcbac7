"""Flags of ``summarymixing shard``; imports nothing that takes time."""

from __future__ import annotations

import argparse


def add_shard_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``summarymixing shard``."""
    add = parser.add_argument
    add("--shards", metavar="FOLDER", help="where the shards go; what is finished is kept")
    add("--shard_size", type=float, default=500, metavar="MB", help="of one, about (default: 500)")
    add(
        "--audio",
        choices=("flac", "as_is"),
        default="flac",
        help="flac (default): FLAC where that changes no sample, other files as they are; as_is: "
        "all files as they are. Parts of files are cut out as FLAC, anyway",
    )
    add(
        "--keep_order",
        action="store_true",
        help="utterances in the order of the corpus (default: in a random one, so that neighbours "
        "are a random sample)",
    )
    add("--shard_seed", type=int, default=0, metavar="N", help="of that order (default: 0)")
    add("--verify", metavar="FOLDER", help="compare a folder of shards, every byte, with its sums")
