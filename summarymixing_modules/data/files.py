"""Writing files so that a kill or a power cut leaves the old content or the new, never half."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

#: A file name may hold bytes that are not UTF-8 (Python's surrogates): they are written as \\udcNN.
_UNKNOWN_BYTES = "backslashreplace"


def printable(path: str | os.PathLike[str]) -> str:
    """A path, or other text, that every file in UTF-8 and every screen takes."""
    return str(path).encode(errors=_UNKNOWN_BYTES).decode()


def sync_to_disk(path: Path) -> None:
    """Make the kernel write a file's content, or a folder's list of names, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write, text in UTF-8, that takes the place of another once it is complete.

    The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors=_UNKNOWN_BYTES, newline="") as file:
            yield file
        sync_to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_to_disk(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step; text is UTF-8. The folder is made if it is missing."""
    with replacing(path) as file:
        if isinstance(content, str):
            file.write(content)
        else:
            file.buffer.write(content)


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Replace a CSV file in one step."""
    with replacing(path) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
