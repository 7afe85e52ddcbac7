"""Writing files so that a kill or a power cut leaves the old content or the new, never half."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step; text is UTF-8. The folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if isinstance(content, str):
        content = content.encode(errors=_UNKNOWN_BYTES)
    partial.write_bytes(content)
    sync_to_disk(partial)
    os.replace(partial, path)
    sync_to_disk(path.parent)


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Replace a CSV file in one step."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue())
