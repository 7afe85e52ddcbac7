"""Libri-Light's folder layout: ``SPLIT/SPEAKER/BOOK/FILE.flac``, each with its ``FILE.json``.

Nothing here opens an audio file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.data.corpora.librilight_cuts import Span
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.data.reading import list_folder, subfolders
from summarymixing_modules.errors import InputError

SPLITS = ("small", "medium", "large")
CORPUS = "Libri-Light"
#: Voice detectors work in frames, the last of which may reach over the end of the file.
_OVERHANG = 0.5  # seconds


class VoiceActivityError(InputError):
    """The voice activity of a file cannot be used; the message names it, and what is wrong."""


@dataclass(frozen=True)
class SpeakerListing:
    """The files of a speaker in one split.

    Attributes:
        folder: ``SPLIT/SPEAKER``.
        audio: its FLAC files, in order.
        audioless: metadata files without a FLAC file beside them.
        fingerprint: changes when a file comes, goes, or is written again.
    """

    folder: Path
    audio: list[Path]
    audioless: list[Path]
    fingerprint: str

    @property
    def split(self) -> str:
        """The split's name."""
        return self.folder.parent.name

    @property
    def speaker(self) -> str:
        """The speaker's name."""
        return self.folder.name


def corpus_root(data_folder: Path) -> Path:
    """The folder that holds the splits: ``data_folder`` itself, or ``Libri-Light`` in it.

    Raises:
        ManifestError: neither holds a split of Libri-Light.
    """
    for root in (data_folder, data_folder / CORPUS):
        if _splits_in(root):
            return root
    raise ManifestError(
        f"--data_folder {data_folder}: found no Libri-Light split ({', '.join(SPLITS)}), neither "
        f"there nor in {CORPUS} below it. Give the Libri-Light folder or its parent"
    )


def _splits_in(root: Path) -> list[str]:
    return [split for split in SPLITS if (root / split).is_dir()]


def speaker_folders(root: Path, splits: Sequence[str]) -> list[Path]:
    """The folders ``SPLIT/SPEAKER`` of some splits, in order.

    Raises:
        ManifestError: Libri-Light has no such split, this copy of it does not, or it is empty.
    """
    folders = []
    for split in splits:
        if split not in SPLITS:
            raise ManifestError(f"{split!r} is not a split of Libri-Light: use {', '.join(SPLITS)}")
        if not (root / split).is_dir():
            raise ManifestError(
                f"{root} has no split {split}: it has {', '.join(_splits_in(root))}. "
                "Unpack the missing one there, or name other splits"
            )
        found = subfolders(root / split)
        if not found:
            raise ManifestError(f"{root / split}: no speaker's folder in it: unpack it again")
        folders += found
    return folders


def list_speaker(folder: Path) -> SpeakerListing:
    """List ``SPLIT/SPEAKER/BOOK/FILE``; files of other kinds are left alone."""
    states: dict[str, tuple[int, int]] = {}
    for book in subfolders(folder):
        for file in list_folder(book):
            if file.name.endswith((".flac", ".json")):
                state = file.stat()
                states[file.path] = (state.st_size, state.st_mtime_ns)
    names = sorted(states)
    content = json.dumps([(os.path.relpath(name, folder), *states[name]) for name in names])
    return SpeakerListing(
        folder,
        [Path(name) for name in names if name.endswith(".flac")],
        [Path(n) for n in names if n.endswith(".json") and f"{n[:-5]}.flac" not in states],
        hashlib.sha256(content.encode()).hexdigest(),
    )


def read_voice_activity(audio: Path, frames: int, sample_rate: int) -> list[Span]:
    """Where a file has voice, as ranges of samples.

    Args:
        audio: the FLAC file; its metadata lie beside it.
        frames: its samples.
        sample_rate: Hz.

    Raises:
        VoiceActivityError: no metadata, no JSON, no ``voice_activity`` in it, or segments that are
            no pairs of seconds, overlap, are out of order or lie beyond the end.
    """
    file = audio.with_suffix(".json")
    try:
        metadata = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise VoiceActivityError(
            f"{file}: missing, so nobody knows where {audio.name} has voice: unpack it again"
        ) from None
    except (OSError, ValueError) as err:
        raise VoiceActivityError(f"{file}: no readable JSON ({err}): unpack it again") from err
    if not isinstance(metadata, dict) or not isinstance(metadata.get("voice_activity"), list):
        raise VoiceActivityError(
            f"{file}: holds no list 'voice_activity' of [start, end] in seconds: unpack it again"
        )
    spans: list[Span] = []
    end = 0.0
    for segment in metadata["voice_activity"]:
        problem = _segment_problem(segment, end, frames / sample_rate)
        if problem:
            raise VoiceActivityError(f"{file}: voice_activity has {segment!r}, {problem}")
        end = segment[1]
        start, stop = (min(round(second * sample_rate), frames) for second in segment)
        if start < stop:
            spans.append((start, stop))
    return spans


def _segment_problem(segment: Any, after: float, duration: float) -> str:
    if not isinstance(segment, list) or len(segment) != 2:
        return "not a pair [start, end]"
    if not all(isinstance(second, int | float) and math.isfinite(second) for second in segment):
        return "not two numbers of seconds"
    start, end = segment
    if not start < end:
        return "which ends before it starts"
    if start < after:
        return f"which starts before {after} s, where the one before it ends"
    if end > duration + _OVERHANG:
        return f"but the audio lasts {duration:.2f} s: one of the two files is another's"
    return ""
