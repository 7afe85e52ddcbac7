"""A part of a corpus of so many hours, in which all speakers speak about as long."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path

from summarymixing_modules.data.manifest import ManifestError, Row, read_manifest, write_manifest

logger = logging.getLogger(__name__)


def subset_path(manifest: Path, hours: float | None) -> Path:
    """Where `write_subset` puts the part of a manifest; the manifest itself for all of it."""
    return manifest if hours is None else manifest.with_name(f"{manifest.stem}_{hours:g}h.csv")


def write_subset(
    manifest: Path, hours: float, seed: int, among: Collection[str] | None = None
) -> list[Row]:
    """Write a random part of a manifest beside it, see `balanced_subset` and `subset_path`.

    Args:
        manifest: of the whole corpus.
        hours: of the part.
        seed: of the draw.
        among: IDs that may be drawn (not too long, say); None = all.

    Returns:
        The rows of the part, in the manifest's order.

    Raises:
        ManifestError: the corpus has less.
    """
    rows = [row for row in read_manifest(manifest) if among is None or row.id in among]
    try:
        chosen = balanced_subset(rows, hours, seed)
    except ManifestError as err:
        raise ManifestError(f"--train_hours={hours:g}: {manifest}: {err}") from None
    path = subset_path(manifest, hours)
    write_manifest(path, chosen)
    logger.info(
        "%s: %d of %d utterances, %.2f h of %d speakers, drawn with seed %d",
        path,
        len(chosen),
        len(rows),
        sum(row.duration for row in chosen) / 3600,
        len({speaker(row) for row in chosen}),
        seed,
    )
    return chosen


def balanced_subset(rows: Sequence[Row], hours: float, seed: int) -> list[Row]:
    """A random part of a corpus in which no speaker has more speech than others, if they have more.

    The next utterance is always of the speaker who has least, until there are ``hours``: the part
    is longer than asked for by less than an utterance. With one seed a shorter part is within a
    longer one, and the order of ``rows`` does not matter.

    Args:
        rows: the corpus.
        hours: of the part.
        seed: of the draw.

    Returns:
        Rows in the order in which they came.

    Raises:
        ManifestError: ``hours`` is not positive, or there is less.
    """
    there = sum(row.duration for row in rows) / 3600
    if not 0 < hours <= there:
        raise ManifestError(
            f"there are {there:.2f} h of usable speech, so a part can have above 0 and up to that. "
            "Ask for less, or for null: all of it; or give more --train_splits"
        )
    generator = random.Random(seed)
    by_speaker: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        by_speaker[speaker(row)].append(row)
    speakers = list(by_speaker.values())
    generator.shuffle(speakers)
    for spoken in speakers:
        generator.shuffle(spoken)
    waiting = [(0.0, index) for index in range(len(speakers))]
    heapify(waiting)
    chosen: set[str] = set()
    missing = hours * 3600
    while missing > 0 and waiting:
        seconds, index = heappop(waiting)
        row = speakers[index].pop()
        chosen.add(row.id)
        missing -= row.duration
        if speakers[index]:
            heappush(waiting, (seconds + row.duration, index))
    return [row for row in rows if row.id in chosen]


def speaker(row: Row) -> str:
    """Who speaks: LibriSpeech's ``spk_id`` is speaker-chapter."""
    return row.spk_id.split("-")[0]
