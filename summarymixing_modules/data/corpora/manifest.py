"""One's own recordings: ``corpus: manifest``, tables of files and what is said in them."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.manifest import DATA_ROOT, ManifestError, Manifests
from summarymixing_modules.data.preparation import (
    TRANSCRIPT,
    Listing,
    Preparation,
    Utterance,
    file_state,
)
from summarymixing_modules.data.tables import Record, read_table
from summarymixing_modules.data.text.normalisation import normalise_sentence

RAW = "raw"
_CODE = re.compile(r"[a-z]{2,3}([-_][a-z0-9]+)*", re.IGNORECASE)  # of a language


@register_corpus("manifest", source="one's own recordings", folder_of="train_manifest")
def prepare_manifest(
    preparation: Preparation,
    *,
    train_manifest: str,
    valid_manifest: str | None = None,
    test_manifests: str | Sequence[str] | None = None,
    train_where: str | Sequence[str] | None = None,
    valid_where: str | Sequence[str] | None = None,
    test_where: str | Sequence[str] | None = None,
    valid_share: float = 0.05,
    language: str | None = None,
    keep_digits: bool = False,
) -> Manifests:
    """Write ``train.csv``, ``valid.csv`` and ``NAME.csv`` for each test table.

    A table has a row for each utterance: its file, relative to the table's folder, of any rate,
    number of channels and format that libsndfile reads; where a recipe needs them, what is said in
    it or its labels; for a part of a file ``start`` and ``end`` or ``duration``, in seconds. The
    names that columns may have are in `data.tables.COLUMNS`.

    Args:
        preparation: its ``data_folder`` decides nothing; what it has ``wanted`` are columns.
        train_manifest: table to train on.
        valid_manifest: table to validate on; None: rows, or a share, of the other.
        test_manifests: tables to test on, if any: PATH or NAME=PATH, or a list of such.
        train_where: COLUMN=VALUE: take only such rows of the table; several: [a=b, c=d].
        valid_where: likewise; without a valid_manifest, of the other.
        test_where: likewise, of all test tables.
        valid_share: of the utterances to validate on, if nothing else is given; see `held_out`.
        language: of the transcripts, for `normalise_sentence`; None: any script; raw: none of it.
        keep_digits: see `normalise_sentence`.

    Raises:
        ManifestError: a table is missing or is none, lacks a column, or has an ID twice; a
            condition or a language means nothing.
        TooManyBadFiles: more rows are unusable than are tolerated.
    """
    save = preparation.save_folder
    tests = _named(test_manifests)
    test = {name: save / f"{name}.csv" for name in tests}
    manifests = Manifests(save / "train.csv", save / "valid.csv", test)
    if preparation.skip_prep:
        return manifests.require()
    if language is not None and not _CODE.fullmatch(language):
        raise ManifestError(
            f"--language={language}: is no code of a language, such as fr or pt-BR; leave it out "
            f"for letters of any script, or give {RAW} for the text as it is"
        )
    reading = _Reading(language, keep_digits, preparation.wanted)
    trained = _Table(Path(train_manifest), "train_manifest", _conditions(train_where), reading)
    if valid_manifest is None and valid_where is None:
        for name in ("train", "valid"):
            listing = partial(_part_of, trained, valid_share, name == "valid")
            preparation.prepare(name, trained.state(valid_share), listing, any_format=True)
        tables = {}
    else:
        other, where = Path(valid_manifest or train_manifest), _conditions(valid_where)
        tables = {"train": trained, "valid": _Table(other, "valid_manifest", where, reading)}
    for name, path in tests.items():
        tables[name] = _Table(Path(path), "test_manifests", _conditions(test_where), reading)
    for name, table in tables.items():
        listing = partial(_checked, table, name, trained)
        preparation.prepare(name, table.state(None), listing, name in tests, any_format=True)
    return manifests


def held_out(utterances: Sequence[Utterance], share: float) -> set[str]:
    """IDs of a part of the utterances, the same whenever it is asked for.

    Whole speakers where speakers are known; if each of them has more than the share, or nobody is
    known, whole recordings.

    Args:
        utterances: all of them.
        share: of them that is wanted; one at least.

    Raises:
        ManifestError: there are not enough.
    """
    quota = max(1, round(share * len(utterances)))
    for by in (lambda u: u.speaker or str(u.audio), lambda u: str(u.audio)):
        sizes = Counter(map(by, utterances))
        chosen, left = set[str](), quota
        for group in sorted(sizes, key=_draw):
            if sizes[group] <= left:
                chosen.add(group)
                left -= sizes[group]
        if chosen and len(chosen) < len(sizes) and share > 0:
            return {u.id for u in utterances if by(u) in chosen}
    raise ManifestError(
        f"--valid_share={share:g}: {len(utterances)} utterances cannot be parted so: give "
        "--valid_manifest, or --valid_where"
    )


def _draw(name: str) -> bytes:
    """Puts names into an order that looks drawn, and is the same everywhere."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _part_of(table: _Table, share: float, valid: bool) -> Listing:
    """What is validated on of a table, or trained on."""
    found = table.rows
    chosen = held_out(found.utterances, share) if found.utterances else set()
    kept = [u for u in found.utterances if (u.id in chosen) == valid]
    return Listing(kept, [] if valid else found.bad)


def _checked(table: _Table, name: str, trained: _Table) -> Listing:
    """The rows of a table, unless they are trained on and evaluated on."""
    found = table.rows
    if table is not trained and table.path.resolve() == trained.path.resolve():
        known = {utterance.id for utterance in trained.rows.utterances}
        if shared := next((u.id for u in found.utterances if u.id in known), None):
            raise ManifestError(
                f"--{table.flag}={table.path}: {shared} is in the rows of {name} and in those that "
                "are trained on: part them by --train_where and its like"
            )
    return found


def _named(manifests: str | Sequence[str] | None) -> dict[str, str]:
    """Test set → table, of NAME=PATH or PATH; without a name it is the file's."""
    found: dict[str, str] = {}
    for text in _several(manifests):
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = Path(text).name.partition(".")[0], text
        if name in found or name in ("train", "valid"):
            raise ManifestError(
                f"--test_manifests={text}: a test set cannot be called {name!r}"
                f"{' like another' if name in found else ''}: name it, [my_test={path}]"
            )
        found[name] = path
    return found


def _conditions(where: str | Sequence[str] | None) -> dict[str, str]:
    """Column → value, of COLUMN=VALUE."""
    found = {}
    for text in _several(where):
        name, equals, value = text.partition("=")
        if not equals:
            raise ManifestError(f"--train_where and its like: {text!r} is not column=value")
        column = name.strip().lower()
        if column in found:
            raise ManifestError(
                f"--train_where and its like: {text!r} is the second condition on {column}, and "
                "all of them must hold: give one"
            )
        found[column] = value.strip()
    return found


def _several(given: str | Sequence[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


@dataclass(frozen=True)
class _Reading:
    """What is made of the columns; arguments of `prepare_manifest`."""

    language: str | None
    keep_digits: bool
    wanted: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """What is wanted besides a transcript."""
        return [name for name in self.wanted if name != TRANSCRIPT]

    def text(self, sentence: str) -> str:
        """The transcript."""
        if TRANSCRIPT not in self.wanted:
            return ""
        if not sentence:
            raise ValueError("its text is empty")
        if self.language == RAW:
            return sentence
        return normalise_sentence(sentence, self.language, self.keep_digits)


@dataclass(frozen=True)
class _Table:
    """A table and which of its rows are meant."""

    path: Path
    flag: str
    where: Mapping[str, str]
    reading: _Reading

    @cached_property
    def folder(self) -> Path:
        """That its paths are relative to."""
        return self.path.absolute().parent

    def state(self, held_out: float | None) -> dict[str, Any]:
        """Changes when the table or what is asked of it does."""
        read = self.reading
        settings = [read.language, read.keep_digits, read.wanted]
        table = [str(self.path.absolute()), file_state(self.path)]
        return {"table": table, "where": self.where, "reading": settings, "held_out": held_out}

    @cached_property
    def rows(self) -> Listing:
        """The utterances that are meant; of rows that cannot be used, why not.

        Raises:
            ManifestError: no row is meant, or an ID occurs twice.
        """
        found, lines = Listing(), dict[str, int]()
        for record in self._rows():
            made = self._utterance(record)
            if (before := lines.setdefault(made.id, record.line)) != record.line:
                raise ManifestError(
                    f"--{self.flag}={self.path}, line {record.line}: the ID {made.id} is also in "
                    f"line {before}: IDs must be unique; without such a column they are made of "
                    "the files' paths"
                )
            if isinstance(made, BadFile):
                found.bad.append(made)
            else:
                found.utterances.append(made)
        if not lines:
            asked = "".join(f" with {name}={value}" for name, value in self.where.items())
            raise ManifestError(f"--{self.flag}={self.path}: has no row{asked}")
        return found

    def _rows(self) -> Iterator[Record]:
        columns = ["path", *map(str.lower, self.reading.wanted), *self.where]
        for record in read_table(self.path, self.flag, columns):
            if all(record.fields.get(name, "") == value for name, value in self.where.items()):
                yield record

    def _utterance(self, record: Record) -> Utterance | BadFile:
        path, begin = record.get("path"), record.get("start")
        audio = self.folder / path
        name = record.get("id") or (f"{path}@{begin}" if begin else path) or f"line {record.line}"
        try:
            if not path:
                raise ValueError("its path is empty")
            if path.startswith(DATA_ROOT):
                raise ValueError("it is of a manifest that this package made, not of a table")
            text = self.reading.text(record.get("text"))
            labels = {task: record.fields.get(task.lower(), "") for task in self.reading.labels}
            if missing := [task for task, label in labels.items() if not label.strip()]:
                raise ValueError(f"it has no {missing[0]}")
            part, lasts = _part(record)
        except ValueError as error:
            reason = f"{self.path}:{record.line}: {name}: {error}"
            return BadFile(str(audio), name, reason)
        speaker = record.get("speaker")
        return Utterance(name, audio, labels, text, speaker, part=part, lasts=lasts)


def _part(record: Record) -> tuple[tuple[float, float | None] | None, float | None]:
    """The part of a file that a row is, or how long it says that the file lasts; in seconds.

    Raises:
        ValueError: numbers that are none, or a part that ends before it starts.
    """
    start, end, duration = (_seconds(record, key) for key in ("start", "end", "duration"))
    if duration == 0:
        raise ValueError("its duration is 0")
    if start is None and end is None:
        return None, duration
    first = start or 0.0
    if end is None and duration is not None:
        end = first + duration
    if end is not None and end <= first:
        raise ValueError(f"{first:g} to {end:g} s is no part of a file")
    return (first, end), None


def _seconds(record: Record, purpose: str) -> float | None:
    text = record.get(purpose)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"its {purpose} {text!r} is no number of seconds") from None
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"its {purpose} {text!r} is no number of seconds")
    return seconds
