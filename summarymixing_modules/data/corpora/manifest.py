"""One's own recordings: ``corpus: manifest``, tables of files and what is said in them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from summarymixing_modules.data.audio import AudioError, probe_audio
from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.manifest import DATA_ROOT, ManifestError, Manifests
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance, file_state
from summarymixing_modules.data.tables import Record, read_table
from summarymixing_modules.data.text.normalisation import normalise_sentence

RAW = "raw"
#: Seconds by which a duration may differ from that of the file.
_TOLERANCE = 0.1


@register_corpus(
    "manifest",
    source="one's own recordings",
    folder_of="train_manifest",
    of_recipes=("token_type", "tasks"),
)
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
    token_type: str | None = None,
    tasks: Sequence[str] = (),
) -> Manifests:
    """Write ``train.csv``, ``valid.csv`` and ``NAME.csv`` for each test table.

    A table has a row for each utterance: its file, relative to the table's folder, of any rate,
    number of channels and format that libsndfile reads; where a recipe needs them, what is said in
    it or its labels; for a part of a file ``start`` and ``end`` or ``duration``, in seconds. The
    names that columns may have are in `data.tables.COLUMNS`.

    Args:
        preparation: its ``data_folder`` decides nothing.
        train_manifest: table to train on.
        valid_manifest: table to validate on; None: a share of the other.
        test_manifests: tables to test on, if any: PATH or NAME=PATH, or a list of such.
        train_where: COLUMN=VALUE: take only such rows of the table; several: [a=b, c=d].
        valid_where: likewise.
        test_where: likewise, of all test tables.
        valid_share: of the speakers, or of the utterances where they have none, to validate on.
        language: of the transcripts, for `normalise_sentence`; None: any script; raw: none of it.
        keep_digits: see `normalise_sentence`.
        token_type: of the recipe; there are transcripts where it is given.
        tasks: of the recipe; each is a column of labels.

    Raises:
        ManifestError: a table is missing or is none, lacks a column, or has an ID twice.
        TooManyBadFiles: more rows are unusable than are tolerated.
    """
    save = preparation.save_folder
    tests = _named(test_manifests)
    test = {name: save / f"{name}.csv" for name in tests}
    manifests = Manifests(save / "train.csv", save / "valid.csv", test)
    if preparation.skip_prep:
        return manifests.require()
    reading = _Reading(language, keep_digits, token_type is not None, tuple(tasks))
    held_out = valid_share if valid_manifest is None else None
    trained = _Table(Path(train_manifest), "train_manifest", _conditions(train_where), reading)
    tables = {"train": trained}
    if valid_manifest is not None:
        where = _conditions(valid_where)
        tables["valid"] = _Table(Path(valid_manifest), "valid_manifest", where, reading)
    for name, path in tests.items():
        tables[name] = _Table(Path(path), "test_manifests", _conditions(test_where), reading)
    for name, table in tables.items():
        listing = partial(table.listing, None if name != "train" else _kept(held_out, True))
        preparation.prepare(name, table.state(held_out), listing, name in tests, any_format=True)
    if held_out is not None:
        listing = partial(trained.listing, _kept(held_out, False))
        preparation.prepare("valid", trained.state(held_out), listing, any_format=True)
    return manifests


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
        found[name.strip().lower()] = value.strip()
    return found


def _several(given: str | Sequence[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _kept(share: float | None, training: bool) -> Callable[[Utterance], bool] | None:
    """Whether an utterance is trained on (or validated on), by its speaker or its ID alone."""
    if share is None:
        return None

    def kept(utterance: Utterance) -> bool:
        name = utterance.speaker or utterance.id
        drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48
        return (drawn >= share) == training

    return kept


@dataclass(frozen=True)
class _Reading:
    """What is made of the columns; arguments of `prepare_manifest`."""

    language: str | None
    keep_digits: bool
    transcripts: bool
    tasks: tuple[str, ...]

    def text(self, sentence: str) -> str:
        """The transcript."""
        if not self.transcripts:
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
        settings = [read.language, read.keep_digits, read.transcripts, list(read.tasks)]
        table = [str(self.path.absolute()), file_state(self.path)]
        return {"table": table, "where": self.where, "reading": settings, "held_out": held_out}

    def listing(self, kept: Callable[[Utterance], bool] | None) -> Listing:
        """Its utterances; of rows that cannot be used, why not.

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
            elif kept is None or kept(made):
                found.utterances.append(made)
        if not lines:
            asked = "".join(f" with {name}={value}" for name, value in self.where.items())
            raise ManifestError(f"--{self.flag}={self.path}: has no row{asked}")
        return found

    def _rows(self) -> Iterator[Record]:
        needed = ["path", *(["text"] if self.reading.transcripts else [])]
        columns = [*needed, *map(str.lower, self.reading.tasks), *self.where]
        for record in read_table(self.path, self.flag, columns):
            if all(record.fields.get(name, "") == value for name, value in self.where.items()):
                yield record

    def _utterance(self, record: Record) -> Utterance | BadFile:
        path, part = record.get("path"), record.get("start")
        audio = self.folder / path
        name = record.get("id") or (f"{path}@{part}" if part else path) or f"line {record.line}"
        try:
            if not path:
                raise ValueError("its path is empty")
            if path.startswith(DATA_ROOT):
                raise ValueError("it is of a manifest that this package made, not of a table")
            text = self.reading.text(record.get("text"))
            labels = {task: record.fields.get(task.lower(), "") for task in self.reading.tasks}
            if missing := [task for task, label in labels.items() if not label.strip()]:
                raise ValueError(f"it has no {missing[0]}")
            start, stop = _samples(audio, record)
        except (AudioError, ValueError) as error:
            reason = f"{self.path}:{record.line}: {name}: {error}"
            return BadFile(str(audio), name, reason)
        return Utterance(name, audio, labels, text, record.get("speaker"), start, stop)


def _samples(audio: Path, record: Record) -> tuple[int, int | None]:
    """The first sample of an utterance and the one past its last, at the rate of its file.

    Raises:
        ValueError: numbers that are none, or do not fit the file.
    """
    seconds = {key: _seconds(record, key) for key in ("start", "end", "duration")}
    start, end, duration = seconds["start"], seconds["end"], seconds["duration"]
    if end is None and duration is not None and start is not None:
        end = start + duration
    if start is None and end is None and duration is None:
        return 0, None
    info = probe_audio(audio)
    if start is None and end is None:
        if duration is not None and abs(duration - info.duration) > _TOLERANCE:
            raise ValueError(
                f"its duration is {duration:g} s, and its file lasts {info.duration:.2f} s: of a "
                "part of a file, give its start, too"
            )
        return 0, None
    first = round((start or 0.0) * info.sample_rate)
    if end is None:
        return first, None
    last = round(end * info.sample_rate)
    if last > info.frames and (last - info.frames) <= _TOLERANCE * info.sample_rate:
        last = info.frames  # times are rounded
    if not first < last <= info.frames:
        raise ValueError(
            f"{start or 0:g} to {end:g} s is no part of its file, which lasts {info.duration:.2f} s"
        )
    return first, last


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
