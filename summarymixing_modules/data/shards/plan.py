"""Which utterances of a split go into which shard, and how much room they take."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.data.labelled import annotations_of, read_annotations
from summarymixing_modules.data.manifest import DATA_ROOT, Manifest, Row, read_manifest
from summarymixing_modules.data.shards.folder import ShardError
from summarymixing_modules.data.shards.tar import Coding, encode

MB = 1_000_000
#: Utterances of which the bytes in a second are estimated.
_SAMPLE = 32
#: Headers, padding and JSON of an utterance, bytes.
_BESIDE = 2048


@dataclass(frozen=True)
class Layout:
    """How shards are written; the flags of ``summarymixing shard``.

    Attributes:
        shard_size: of a shard, about, MB.
        audio: see `Coding`.
        keep_order: of the corpus; otherwise a random one, so that neighbours in a shard are a
            random sample.
        shard_seed: of that.

    Raises:
        ShardError: one of them means nothing.
    """

    shard_size: float = 500.0
    audio: Coding = "flac"
    keep_order: bool = False
    shard_seed: int = 0

    def __post_init__(self) -> None:
        if not self.shard_size > 0:
            raise ShardError(f"--shard_size={self.shard_size}: give MB above 0")
        if self.audio not in get_args(Coding):
            raise ShardError(f"--audio={self.audio}: use {' or '.join(get_args(Coding))}")


@dataclass(frozen=True)
class PlannedSplit:
    """A split to be written.

    Attributes:
        name: of the split.
        manifest: its utterances.
        data_root: of their paths.
        layout: of the shards.
        annotations: labels by ID; none where the corpus has none.
    """

    name: str
    manifest: Manifest
    data_root: Path
    layout: Layout
    annotations: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, name: str, path: Path, data_root: Path, layout: Layout) -> PlannedSplit:
        """The split of a manifest."""
        annotations = read_annotations(path) if annotations_of(path).is_file() else {}
        return cls(name, read_manifest(path), data_root, layout, annotations)

    @cached_property
    def order(self) -> Sequence[int]:
        """The places of the manifest, as they come in the shards."""
        places = list(range(len(self.manifest)))
        if not self.layout.keep_order:
            random.Random(f"{self.layout.shard_seed}/{self.name}").shuffle(places)
        return places

    @cached_property
    def bytes(self) -> float:
        """What all shards take, about."""
        heard = written = 0.0
        for place in self.order[:_SAMPLE]:
            row = self.manifest[place]
            try:
                content, _ = encode(self.source(row), row.start, row.stop, self.layout.audio)
            except AudioError:
                continue  # it is told when it is to be written
            heard, written = heard + row.duration, written + len(content)
        rate = written / heard if heard else 0.0
        return rate * float(self.manifest.durations.sum()) + _BESIDE * len(self.manifest)

    def shards(self) -> list[list[int]]:
        """The places of every shard: of about equally many seconds."""
        count = max(1, math.ceil(self.bytes / (self.layout.shard_size * MB)))
        durations_N = self.manifest.durations[list(self.order)]
        begins_N = durations_N.cumsum() - durations_N
        numbers = (begins_N / durations_N.sum() * count).astype(int).tolist()
        numbered = zip(numbers, self.order, strict=True)
        return [[p for _, p in part] for _, part in groupby(numbered, key=lambda pair: pair[0])]

    def source(self, row: Row) -> str:
        """Where the audio of an utterance is."""
        return row.wav.replace(DATA_ROOT, str(self.data_root), 1)


def missing_room(splits: Iterable[PlannedSplit], folder: Path, free: int) -> float:
    """GB that a disk lacks for all shards; 0 if they fit.

    Args:
        splits: to be written.
        folder: to write to; what is there already is written over.
        free: bytes.
    """
    there = sum(file.stat().st_size for file in folder.glob("*/*.tar"))
    # A shard that is written again exists twice for a while.
    needed = 1.05 * sum(split.bytes for split in splits) - there
    return max(0.0, needed - free) / 1e9
