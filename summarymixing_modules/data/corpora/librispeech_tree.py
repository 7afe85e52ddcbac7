"""LibriSpeech's folder layout: ``SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`` and transcripts.

Nothing here opens an audio file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.data.reading import files_in, read_lines, subfolders

SPLITS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)


@dataclass(frozen=True)
class Transcript:
    """One transcript line and the audio file that belongs to it (which may be missing)."""

    id: str
    text: str
    audio: Path


@dataclass(frozen=True)
class SplitListing:
    """Content of a split's folder.

    Attributes:
        transcripts: in the order of their ids.
        untranscribed: audio files that no transcript names.
    """

    transcripts: list[Transcript]
    untranscribed: list[Path]


def corpus_root(data_folder: Path) -> Path:
    """The folder that holds the splits: ``data_folder`` itself, or ``LibriSpeech`` in it.

    Raises:
        ManifestError: neither holds a split of LibriSpeech.
    """
    if not data_folder.is_dir():
        raise ManifestError(
            f"--data_folder {data_folder}: no such folder. Give the LibriSpeech folder or its "
            "parent, or run `summarymixing demo`, which makes a synthetic corpus"
        )
    for root in (data_folder, data_folder / "LibriSpeech"):
        if _splits_in(root):
            return root
    raise ManifestError(
        f"--data_folder {data_folder}: found no LibriSpeech split ({', '.join(SPLITS)}), neither "
        "there nor in LibriSpeech below it. Give the LibriSpeech folder or its parent"
    )


def _splits_in(root: Path) -> list[str]:
    return [split for split in SPLITS if (root / split).is_dir()]


def split_folder(root: Path, split: str) -> Path:
    """Folder of a split.

    Raises:
        ManifestError: LibriSpeech has no such split, or this copy of it does not.
    """
    if split not in SPLITS:
        raise ManifestError(f"{split!r} is not a split of LibriSpeech: use {', '.join(SPLITS)}")
    folder = root / split
    if not folder.is_dir():
        raise ManifestError(
            f"{root} has no split {split}: it has {', '.join(_splits_in(root))}. "
            "Unpack the missing one there, or name other splits"
        )
    return folder


def _chapters(folder: Path) -> list[Path]:
    return [chapter for speaker in subfolders(folder) for chapter in subfolders(speaker)]


def _transcript_files(folder: Path, chapters: Sequence[Path]) -> list[Path]:
    files = [file for chapter in chapters for file in files_in(chapter, ".trans.txt")]
    if not files:
        raise ManifestError(
            f"{folder}: no transcript SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt in it: "
            "unpack the split again"
        )
    return files


def split_fingerprint(folder: Path) -> dict[str, int]:
    """Numbers that change when transcripts change or audio files come or go.

    A file overwritten in place leaves them as they are.
    """
    chapters = _chapters(folder)
    files = _transcript_files(folder, chapters)
    states = [file.stat() for file in files]
    changed = [path.stat().st_mtime_ns for path in chapters]
    return {
        "transcript_files": len(files),
        "transcript_bytes": sum(state.st_size for state in states),
        "chapters": len(chapters),
        "newest_ns": max(*(state.st_mtime_ns for state in states), *changed),
    }


def read_split(folder: Path) -> SplitListing:
    """List the transcripts of a split, and the audio files without one.

    Raises:
        ManifestError: no transcript, a malformed line, or an id used twice.
    """
    transcripts: dict[str, Transcript] = {}
    chapters = _chapters(folder)
    for file in _transcript_files(folder, chapters):
        for transcript in _read_transcripts(file):
            if transcript.id in transcripts:
                raise ManifestError(
                    f"{file}: the ID {transcript.id} is used twice in {folder}: remove one line"
                )
            transcripts[transcript.id] = transcript
    audio = [path for chapter in chapters for path in files_in(chapter, ".flac")]
    untranscribed = [path for path in audio if path.stem not in transcripts]
    return SplitListing([transcripts[name] for name in sorted(transcripts)], untranscribed)


def split_transcripts(data_folder: Path, splits: Sequence[str]) -> list[str]:
    """The transcripts of some splits, in order; needs no audio."""
    root = corpus_root(data_folder)
    listings = (read_split(split_folder(root, split)) for split in splits)
    return [transcript.text for listing in listings for transcript in listing.transcripts]


def _read_transcripts(file: Path) -> Iterator[Transcript]:
    prefix = "-".join(file.parent.parts[-2:]) + "-"
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        identifier, *words = line.split()
        problem = _line_problem(identifier, words, prefix)
        if problem:
            raise ManifestError(
                f"{file}:{number}: malformed transcript line {line!r}: {problem}. "
                f"Expected '{prefix}0000 SOME WORDS': correct or remove the line"
            )
        yield Transcript(identifier, " ".join(words), file.parent / f"{identifier}.flac")


def _line_problem(identifier: str, words: list[str], prefix: str) -> str:
    if not identifier.startswith(prefix):
        return f"the ID does not start with {prefix!r}, as its folder asks"
    if not words:
        return "there are no words after the ID"
    if any("$" in word for word in words):
        return "'$' marks variables in SpeechBrain's manifests"
    return ""
