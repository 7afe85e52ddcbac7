"""Manifests: CSV files of utterances in the columns that SpeechBrain's recipes use."""

from __future__ import annotations

import csv
import io
import os
import shutil
import weakref
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from summarymixing_modules.data.files import replacing
from summarymixing_modules.errors import InputError

#: In a manifest, audio paths start with this; `DynamicItemDataset.from_csv` replaces it.
DATA_ROOT = "$data_root"

_COLUMNS = ("ID", "duration", "wav", "spk_id", "wrd")
_PART_COLUMNS = ("start", "stop")  # only in manifests of parts of files
_ROWS_AT_ONCE = 1000


class ManifestError(InputError):
    """A corpus or a manifest is not what it should be; the message names the file and remedy."""


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance.

    Attributes:
        id: unique in a manifest.
        duration: seconds.
        wav: audio path, relative to the corpus and starting with `DATA_ROOT`.
        spk_id: speaker, as SpeechBrain's recipe for the corpus names it.
        wrd: transcript.
        start: first sample of the file that belongs to the utterance, at the file's rate.
        stop: one past its last sample; None is the end of the file.
    """

    id: str
    duration: float
    wav: str
    spk_id: str
    wrd: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Manifests:
    """Where the manifests of a corpus are.

    Attributes:
        train: the training splits, merged.
        valid: the development splits, merged.
        test: one manifest for each test split.
        trials: pairs of test utterances to verify, where the corpus has some.
    """

    train: Path
    valid: Path
    test: dict[str, Path] = field(default_factory=dict)
    trials: Path | None = None

    def require(self) -> Manifests:
        """Itself, if everything is there.

        Raises:
            ManifestError: a file is missing.
        """
        trials = () if self.trials is None else (self.trials,)
        for path in (self.train, self.valid, *self.test.values(), *trials):
            if not path.is_file():
                raise ManifestError(f"{path}: no such manifest, so --skip_prep cannot be true yet")
        return self


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The rows of a manifest.

    Raises:
        ManifestError: see `Manifest`.
    """
    return Manifest(path)


class Manifest(Sequence[Row]):
    """The rows of a manifest, read from its file whenever they are asked for.

    A million rows as Python objects are a gigabyte, and every loading worker makes a copy of it by
    counting its references. Here arrays are in memory, 32 bytes a row, which forked workers share.
    The file stays open: rows are there even if it is replaced.

    Args:
        path: the file.

    Attributes:
        durations: of the rows, seconds.
        hashes: of their IDs, in this process.
        in_parts: utterances may be parts of files.

    Raises:
        ManifestError: it is missing, lacks a column or, in a row, a field, holds a duration, start
            or stop that is no number, or the same ID twice.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ManifestError(
                f"{path}: no such manifest: prepare the corpus first (--skip_prep off)"
            )
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._read_index()
        self._order = np.argsort(self.hashes, kind="stable")
        self._refuse_repeated_ids()

    def __reduce__(self) -> tuple[type[Manifest], tuple[Path]]:
        """What a spawned worker gets: the file."""
        return Manifest, (self.path,)

    def __len__(self) -> int:
        return len(self.durations)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        return next(self._between(place, place + 1))

    def __iter__(self) -> Iterator[Row]:
        for first in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._between(first, min(first + _ROWS_AT_ONCE, len(self)))

    def find(self, name: str) -> int | None:
        """The place of the row with an ID; None if there is none."""
        wanted = hash(name)
        rank = int(np.searchsorted(self.hashes, wanted, sorter=self._order))
        while rank < len(self) and self.hashes[place := int(self._order[rank])] == wanted:
            if self[place].id == name:
                return place
            rank += 1
        return None

    def _between(self, first: int, last: int) -> Iterator[Row]:
        """Rows from one place to before another; pread, so that forked workers may share it."""
        begins, ends = int(self._begins[first]), int(self._begins[last])
        text = os.pread(self._descriptor, ends - begins, begins).decode()
        for record in csv.reader(io.StringIO(text, newline="")):
            if record:
                yield self._row(record)

    def _read_index(self) -> None:
        """One pass over the file: where rows begin, how long they last, the hashes of their IDs."""
        begins, durations, hashes = array("q"), array("d"), array("q")
        with open(self._descriptor, "rb", closefd=False) as file:
            lines = _Lines(file)
            reader = csv.reader(lines)
            self._find_columns(next(reader, []))
            name, begin = self._columns[0], lines.position
            for record in reader:
                if record:  # an empty line is none
                    durations.append(self._check(record, reader.line_num))
                    begins.append(begin)
                    hashes.append(hash(record[name]))
                begin = lines.position
            begins.append(begin)
        self._begins = np.array(begins)
        self.durations = np.array(durations)
        self.hashes = np.array(hashes)

    def _find_columns(self, header: Sequence[str]) -> None:
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise ManifestError(
                f"{self.path}: lacks the columns {', '.join(missing)}: prepare it again"
            )
        self.in_parts = all(name in header for name in _PART_COLUMNS)
        self._width = len(header)
        names = _COLUMNS + _PART_COLUMNS if self.in_parts else _COLUMNS
        self._columns = [header.index(name) for name in names]

    def _check(self, record: Sequence[str], line: int) -> float:
        """The duration in a record, which is what it should be."""
        if len(record) != self._width:
            raise ManifestError(
                f"{self.path}:{line}: has {len(record)} fields, not {self._width}: prepare it again"
            )
        _, duration, _, _, _, *part = self._columns
        for name, column in zip(_PART_COLUMNS, part, strict=False):
            if record[column] and not record[column].isdecimal():
                raise ManifestError(
                    f"{self.path}:{line}: the {name} {record[column]!r} is not a number of samples"
                )
        try:
            return float(record[duration])
        except ValueError as err:
            raise ManifestError(
                f"{self.path}:{line}: the duration {record[duration]!r} is not a number of seconds"
            ) from err

    def _row(self, record: Sequence[str]) -> Row:
        name, duration, wav, speaker, text, *part = [record[column] for column in self._columns]
        if not part:
            return Row(name, float(duration), wav, speaker, text)
        start, stop = (int(sample) if sample else None for sample in part)
        return Row(name, float(duration), wav, speaker, text, start or 0, stop)

    def _refuse_repeated_ids(self) -> None:
        ordered = self.hashes[self._order]
        for rank in np.flatnonzero(ordered[1:] == ordered[:-1]):
            first, again = self._order[rank : rank + 2].tolist()
            if self[first].id == self[again].id:
                before = os.pread(self._descriptor, int(self._begins[again]), 0)
                line = before.count(b"\n") + 1
                raise ManifestError(f"{self.path}:{line}: the ID {self[first].id} occurs twice")


class _Lines:
    """The lines of a file in UTF-8, with the byte at which the next one begins."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.position = file, 0

    def __iter__(self) -> Iterator[str]:
        encoding = "utf-8-sig"
        for line in self.file:
            self.position += len(line)
            yield line.decode(encoding)
            encoding = "utf-8"


def write_manifest(path: Path, rows: Collection[Row]) -> None:
    """Write a manifest in one step; with start and stop if an utterance is a part of a file."""
    _write(path, [rows])


def _write(path: Path, sources: Sequence[Collection[Row]]) -> None:
    parts = any(map(_has_parts, sources))
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS + _PART_COLUMNS if parts else _COLUMNS)
        for row in chain.from_iterable(sources):
            place = (row.start, "" if row.stop is None else row.stop) if parts else ()
            writer.writerow((row.id, row.duration, row.wav, row.spk_id, row.wrd, *place))


def _has_parts(rows: Collection[Row]) -> bool:
    if isinstance(rows, Manifest):
        return rows.in_parts
    return any(row.start or row.stop is not None for row in rows)


def merge_manifests(paths: Sequence[Path], merged: Path) -> None:
    """Write the rows of several manifests, in order, into one.

    Raises:
        ManifestError: an ID occurs in two of them.
    """
    if len(paths) == 1:
        with paths[0].open("rb") as source, replacing(merged) as file:
            shutil.copyfileobj(source, file.buffer)
        return
    parts = [read_manifest(path) for path in paths]
    _refuse_shared_ids(parts)
    _write(merged, parts)


def _refuse_shared_ids(parts: Sequence[Manifest]) -> None:
    for index, part in enumerate(parts):
        for other in parts[:index]:
            for place in np.flatnonzero(np.isin(part.hashes, other.hashes)):
                name = part[int(place)].id
                if other.find(name) is not None:
                    raise ManifestError(
                        f"the ID {name} is in {other.path.name} and in {part.path.name}: "
                        "utterance IDs must be unique over the splits merged for training"
                    )
