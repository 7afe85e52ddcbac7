"""Tables of recordings: CSV, TSV or JSON lines, whoever wrote them."""

from __future__ import annotations

import csv
import functools
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from summarymixing_modules.data.files import printable
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.errors import did_you_mean

#: What a column is for → the names that it is known by; of several in a table the first counts.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "wav", "audio_filepath", "audio", "file", "filename", "audio_path"),
    "text": ("text", "transcript", "transcription", "sentence", "wrd", "normalized_text"),
    "id": ("id", "utterance_id", "utt_id", "audio_id", "segment_id"),
    "start": ("start", "offset", "start_time", "begin"),
    "end": ("end", "end_time"),
    "duration": ("duration", "dur"),
    "speaker": ("speaker", "speaker_id", "spk_id", "client_id"),
}
_JSON = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a table.

    Attributes:
        line: of the file, where it ends.
        fields: by the names of the columns, in lower case.
        columns: what a column is for → its name.
    """

    line: int
    fields: Mapping[str, str]
    columns: Mapping[str, str]

    def get(self, purpose: str) -> str:
        """The field of the column for a purpose, see `COLUMNS`; empty where there is none."""
        return self.fields.get(self.columns.get(purpose, ""), "").strip()


def read_table(path: Path, flag: str, needed: Sequence[str]) -> Iterator[Record]:
    """The rows of a table, read one by one.

    A file that ends in .jsonl, .json or .ndjson, or begins with a brace, holds an object a line.
    Any other begins with the names of its columns, of which upper and lower case are the same;
    where there are tabs among them, fields are parted by tabs and quotes mean nothing, otherwise it
    is CSV, with commas or semicolons. All of it may be compressed (.gz).

    Args:
        path: the file, in UTF-8.
        flag: that names it, for messages.
        needed: columns by their purposes, see `COLUMNS`, or by their own names.

    Raises:
        ManifestError: there is no such file, it is no text or no table, or a column is missing;
            names the flag, the file and the columns that are there.
    """
    where = f"--{flag}={printable(path)}"
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "there is no such file"
        raise ManifestError(f"{where}: {kind}: give a table of recordings (CSV, TSV, JSON lines)")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            lines = _skipped_blank(file)
            first = next(lines, None)
            if first is None:
                raise ManifestError(f"{where}: is empty")
            suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
            if first.lstrip().startswith("{") or any(suffix in _JSON for suffix in suffixes):
                yield from _json_rows(_chained(first, lines), where, needed)
            else:
                yield from _rows(first, lines, where, needed)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ManifestError(f"{where}: is not text in UTF-8 ({error}): convert it") from None


def _skipped_blank(file: Iterator[str]) -> Iterator[str]:
    """The lines of a file from the first one on that says something."""
    for line in file:
        if line.strip():
            yield line
            break
    yield from file


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _rows(first: str, lines: Iterator[str], where: str, needed: Sequence[str]) -> Iterator[Record]:
    tabs = "\t" in first
    delimiter = "\t" if tabs else ";" if ";" in first and "," not in first else ","
    chained = _chained(first, lines)
    if tabs:
        reader = csv.reader(chained, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(chained, delimiter=delimiter, strict=True)
    names = [name.strip().lower() for name in next(reader)]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ManifestError(f"{where}: has the column {twice[0]!r} twice: rename one of them")
    require_columns(names, where, needed)
    columns = _columns(tuple(names))
    try:
        for fields in reader:
            if not any(map(str.strip, fields)):
                continue
            if len(fields) > len(names):
                raise ManifestError(
                    f"{where}, line {reader.line_num}: has {len(fields)} fields, and there are "
                    f"{len(names)} columns: quote fields that hold a {delimiter!r}"
                )
            yield Record(reader.line_num, dict(zip(names, fields, strict=False)), columns)
    except csv.Error as error:
        raise ManifestError(f"{where}, line {reader.line_num}: {error}") from None


def _json_rows(lines: Iterator[str], where: str, needed: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ManifestError(
                f"{where}, line {number}: is no JSON ({error}): write one object on each line"
            ) from None
        if not isinstance(entry, dict):
            raise ManifestError(
                f"{where}, line {number}: holds no object {{...}} but {line[:40]!r}"
            )
        fields = {str(name).lower(): _as_text(value) for name, value in entry.items()}
        if number == 1:
            require_columns(list(fields), where, needed)
        yield Record(number, fields, _columns(tuple(fields)))


@functools.lru_cache
def _columns(names: tuple[str, ...]) -> dict[str, str]:
    """What a column is for → its name, of a table with columns of these names."""
    found = {
        purpose: [name for name in known if name in names] for purpose, known in COLUMNS.items()
    }
    return {purpose: there[0] for purpose, there in found.items() if there}


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def require_columns(names: Sequence[str], where: str, needed: Sequence[str]) -> None:
    """Refuses a table that lacks a column.

    Args:
        names: of its columns, in lower case.
        where: begins the message.
        needed: as in `read_table`.

    Raises:
        ManifestError: says which columns there are, and which names would do; or there are start
            and stop, of which nobody knows the unit.
    """
    if "stop" in names and set(COLUMNS["start"]) & set(names):
        raise ManifestError(
            f"{where}: has the columns start and stop, which other programs count in samples: give "
            "start and end in seconds"
        )
    for purpose in needed:
        known = COLUMNS.get(purpose, (purpose,))
        if not set(known) & set(names):
            raise ManifestError(
                f"{where}: has no column {' or '.join(known[:3])}, only "
                f"{', '.join(map(repr, names))}: name the columns in the first line, or in every "
                f"object.{did_you_mean(purpose, names)}"
            )
