"""Text files and folders of corpora, read so that what cannot be read is named with a remedy."""

from __future__ import annotations

import os
from pathlib import Path

from summarymixing_modules.data.files import printable
from summarymixing_modules.data.manifest import ManifestError


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, with or without a byte-order mark, that end in LF or CRLF.

    Raises:
        ManifestError: the file may not be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            # Not splitlines: it also parts at characters that a transcript may hold (U+2028).
            return [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{printable(path)}: is not UTF-8 text ({err}): convert it, or copy it again"
        ) from err
    except OSError as err:
        raise ManifestError(f"{printable(path)}: {_why(err, 'read')}") from err


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in order.

    Raises:
        ManifestError: it may not be listed.
    """
    return [Path(entry.path) for entry in list_folder(folder) if entry.is_dir()]


def files_in(folder: Path, suffix: str) -> list[Path]:
    """What is in a folder and ends so, in order.

    Raises:
        ManifestError: it may not be listed.
    """
    return [Path(entry.path) for entry in list_folder(folder) if entry.name.endswith(suffix)]


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, in order; pathlib's glob skips folders that may not be listed.

    Raises:
        ManifestError: it may not be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as err:
        raise ManifestError(f"{printable(folder)}: {_why(err, 'listed')}") from err


def _why(err: OSError, what: str) -> str:
    if isinstance(err, PermissionError):
        return f"may not be {what} (permission denied): change its owner or mode (chmod -R u+rX)"
    return f"cannot be {what} ({err.strerror})"
