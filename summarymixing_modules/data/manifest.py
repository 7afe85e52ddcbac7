"""Manifests: CSV files of utterances in the columns that SpeechBrain's recipes use."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError

#: In a manifest, audio paths start with this; `DynamicItemDataset.from_csv` replaces it.
DATA_ROOT = "$data_root"

_COLUMNS = ("ID", "duration", "wav", "spk_id", "wrd")
_PART_COLUMNS = ("start", "stop")  # only in manifests of parts of files


class ManifestError(InputError):
    """A corpus or a manifest is not what it should be; the message names the file and remedy."""


@dataclass(frozen=True)
class Row:
    """One utterance.

    Attributes:
        id: unique in a manifest.
        duration: seconds.
        wav: audio path, relative to the corpus and starting with `DATA_ROOT`.
        spk_id: speaker, as SpeechBrain's recipe for the corpus names it.
        wrd: transcript.
        start: first sample of the file that belongs to the utterance.
        stop: one past its last sample; None is the end of the file.
    """

    id: str
    duration: float
    wav: str
    spk_id: str
    wrd: str
    start: int = 0
    stop: int | None = None


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write a manifest in one step; with start and stop if an utterance is a part of a file."""
    rows = list(rows)
    parts = any(row.start or row.stop is not None for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS + _PART_COLUMNS if parts else _COLUMNS)
    for row in rows:
        place = (row.start, "" if row.stop is None else row.stop) if parts else ()
        writer.writerow((row.id, row.duration, row.wav, row.spk_id, row.wrd, *place))
    write_atomically(path, text.getvalue())


def read_manifest(path: str | os.PathLike[str]) -> list[Row]:
    """Read a manifest back.

    Raises:
        ManifestError: it is missing, lacks a column, holds a duration, start or stop that is no
            number, or the same ID twice.
    """
    if not Path(path).is_file():
        raise ManifestError(f"{path}: no such manifest: prepare the corpus first (--skip_prep off)")
    rows: dict[str, Row] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ManifestError(f"{path}: lacks the columns {', '.join(missing)}: prepare it again")
        for record in reader:
            row = _parse(path, reader.line_num, record)
            if row.id in rows:
                raise ManifestError(f"{path}:{reader.line_num}: the ID {row.id} occurs twice")
            rows[row.id] = row
    return list(rows.values())


def _parse(path: str | os.PathLike[str], line: int, record: dict[str, str]) -> Row:
    try:
        duration = float(record["duration"])
    except (TypeError, ValueError) as err:
        raise ManifestError(
            f"{path}:{line}: the duration {record['duration']!r} is not a number of seconds"
        ) from err
    start, stop = (_parse_sample(path, line, record, name) for name in _PART_COLUMNS)
    texts = (record["wav"], record["spk_id"], record["wrd"])
    return Row(record["ID"], duration, *texts, start=start or 0, stop=stop)


def _parse_sample(
    path: str | os.PathLike[str], line: int, record: dict[str, str], name: str
) -> int | None:
    text = record.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise ManifestError(f"{path}:{line}: the {name} {text!r} is not a number of samples")
    return int(text)


def merge_manifests(paths: Sequence[Path], merged: Path) -> None:
    """Write the rows of several manifests, in order, into one.

    Raises:
        ManifestError: an ID occurs in two of them.
    """
    origin: dict[str, Path] = {}
    rows: list[Row] = []
    for path in paths:
        for row in read_manifest(path):
            if row.id in origin:
                raise ManifestError(
                    f"the ID {row.id} is in {origin[row.id].name} and in {path.name}: "
                    "utterance IDs must be unique over the splits merged for training"
                )
            origin[row.id] = path
            rows.append(row)
    write_manifest(merged, rows)
