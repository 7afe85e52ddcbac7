"""A record of the audio that a run could not use, and a limit on how much of it is tolerated."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from summarymixing_modules.data.files import printable, write_atomically
from summarymixing_modules.errors import InputError

logger = logging.getLogger(__name__)

#: The flags that say how much may be unusable: of what is trained on, and of a test set.
FLAG, TEST_FLAG = "--max_bad_audio", "--test_max_bad_audio"
_COLUMNS = ("path", "id", "reason")


class TooManyBadFiles(InputError):
    """More of the corpus is unusable than is tolerated."""


@dataclass(frozen=True)
class BadFile:
    """One unusable utterance."""

    path: str
    id: str
    reason: str


def tolerated(total: int, max_bad_fraction: float, flag: str = FLAG) -> int:
    """How many of ``total`` utterances may be unusable.

    At least one, so that a single bad file does not stop work on a small corpus; but none at all
    when ``max_bad_fraction`` is 0.

    Raises:
        InputError: the fraction is outside [0, 1].
    """
    if not 0.0 <= max_bad_fraction <= 1.0:
        raise InputError(f"{flag} {max_bad_fraction}: use a fraction between 0 and 1")
    return max(1, math.floor(max_bad_fraction * total)) if max_bad_fraction else 0


def refuse_too_many(
    bad: Sequence[BadFile],
    total: int,
    max_bad_fraction: float,
    csv_path: Path,
    what: str = "utterances",
    where: str = "",
    flag: str = FLAG,
) -> None:
    """End a preparation in which too much is unusable.

    Args:
        bad: what is.
        total: of how many.
        max_bad_fraction: see `tolerated`.
        csv_path: the list of them.
        what: they are called.
        where: begins the message, such as "train: ".
        flag: that the fraction is given by.

    Raises:
        TooManyBadFiles: more are bad than is tolerated.
    """
    limit = tolerated(total, max_bad_fraction, flag)
    if len(bad) > limit:
        examples = "\n".join(f"  {file.reason}" for file in bad[:5])
        raise TooManyBadFiles(
            f"{where}{len(bad)} of {total} {what} are unusable, more than the {limit} allowed by "
            f"{flag} {max_bad_fraction:g}:\n{examples}\nAll are listed in {csv_path}: "
            f"repair them, or raise {flag} to go on without them"
        )


class BadAudioLog:
    """``bad_audio.csv``: one line for each unusable file, however often it is met.

    DataLoader workers and the processes of a distributed run share the file: each addition happens
    under a file lock. Files met in an earlier run of the same folder stay listed and count.

    Args:
        csv_path: the file; made at the first bad utterance.
        total: number of utterances of the corpus; ``None`` keeps the list without a limit.
        max_bad_fraction: part of ``total`` that may be unusable; see `tolerated`.
        flag: that it is given by.

    Raises:
        InputError: the fraction is outside [0, 1].
    """

    def __init__(
        self,
        csv_path: str | os.PathLike[str],
        total: int | None = None,
        max_bad_fraction: float = 0.01,
        flag: str = FLAG,
    ) -> None:
        self.csv_path = Path(csv_path)
        self.total = total
        self.flag = flag
        self.limit = None if total is None else tolerated(total, max_bad_fraction, flag)
        self.max_bad_fraction = max_bad_fraction

    def _lock(self) -> FileLock:
        self.csv_path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.csv_path.with_name(f".{self.csv_path.name}.lock"))

    def read(self) -> list[BadFile]:
        """The recorded files, in the order in which they were met."""
        if not self.csv_path.exists():
            return []
        with open(self.csv_path, newline="", encoding="utf-8") as file:
            return [BadFile(row["path"], row["id"], row["reason"]) for row in csv.DictReader(file)]

    def __len__(self) -> int:
        return len(self.read())

    def record(self, path: str, utterance: str, reason: str) -> bool:
        """Note one unusable utterance; see `record_all`."""
        return self.record_all([BadFile(path, utterance, reason)]) > 0

    def record_all(self, files: Iterable[BadFile]) -> int:
        """Note unusable utterances; files already listed are not listed again.

        Returns:
            How many were new.

        Raises:
            TooManyBadFiles: more than the limit are listed now (they are on disk all the same).
        """
        files = [BadFile(*map(printable, (file.path, file.id, file.reason))) for file in files]
        with self._lock():
            listed = self.read()
            known = {file.path for file in listed}
            first_met = {file.path: file for file in reversed(files)}
            new = [file for path, file in reversed(first_met.items()) if path not in known]
            self._append(new)
        for file in new:
            logger.warning("Unusable utterance %s left out: %s", file.id, file.reason)
        if new:
            self._enforce_limit([*listed, *new])
        return len(new)

    def _append(self, files: list[BadFile]) -> None:
        if not files:
            return
        lines = _csv_lines(files, header=not self.csv_path.exists())
        # One unbuffered write of whole lines: a kill leaves no half line behind.
        with open(self.csv_path, "ab", buffering=0) as csv_file:
            csv_file.write(lines.encode())

    def _enforce_limit(self, listed: list[BadFile]) -> None:
        if self.limit is not None and len(listed) > self.limit:
            raise TooManyBadFiles(
                f"{len(listed)} of {self.total} utterances are unusable, more than the "
                f"{self.limit} allowed by {self.flag} {self.max_bad_fraction:g}. "
                f"The last one: {listed[-1].reason}. All are listed in {self.csv_path}: repair "
                f"them and delete that list, or raise {self.flag} to go on without them"
            )

    def forget(self, folder: str) -> None:
        """Drop the files under ``folder`` from the list, before that folder is examined anew."""
        with self._lock():
            listed = self.read()
            kept = [file for file in listed if not Path(file.path).is_relative_to(folder)]
            if len(kept) < len(listed):
                write_atomically(self.csv_path, _csv_lines(kept, header=True))


def _csv_lines(files: Iterable[BadFile], header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(_COLUMNS)
    writer.writerows((file.path, file.id, " ".join(file.reason.split())) for file in files)
    return text.getvalue()
