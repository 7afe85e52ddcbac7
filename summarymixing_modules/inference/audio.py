"""Audio of any rate and number of channels, read, mixed down and resampled block by block.

Shape suffixes: L samples.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from summarymixing_modules.data.audio import (
    AUDIO_SUFFIXES,
    AudioError,
    open_audio,
    probe_audio,
)
from summarymixing_modules.data.reading import list_folder
from summarymixing_modules.errors import InputError

BLOCK_SECONDS = 10.0
#: Zero crossings of torchaudio's interpolation filter on each side, with room for its rolloff.
_FILTER_WIDTH = 8


def find_audio(patterns: Iterable[str | os.PathLike[str]]) -> list[tuple[Path, Path]]:
    """The audio files that arguments stand for, in their order, each once.

    Args:
        patterns: files; folders, searched through for `AUDIO_SUFFIXES`; patterns such as
            ``"talks/**/*.mp3"``.

    Returns:
        each file, and its path relative to the folder that was given (its name otherwise).

    Raises:
        InputError: nothing there, or a folder that may not be listed.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = [file for file in _below(path) if file.suffix.lower() in AUDIO_SUFFIXES]
            named = [(file, file.relative_to(path)) for file in files]
        elif path.exists():
            named = [(path, Path(path.name))]
        else:
            matches = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
            named = [(match, Path(match.name)) for match in matches if match.is_file()]
        if not named:
            kind = "holds no audio files" if path.is_dir() else "no such file"
            raise InputError(f"{pattern}: {kind} (known: {', '.join(sorted(AUDIO_SUFFIXES))})")
        for file, name in named:
            found.setdefault(file, name)
    return list(found.items())


def _below(folder: Path) -> Iterator[Path]:
    """Whatever is in a folder and those in it, but links to folders, in order."""
    for entry in list_folder(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))
        elif not entry.is_dir():
            yield Path(entry.path)


def read_blocks(path: str | os.PathLike[str], sample_rate: int) -> Iterator[Tensor]:
    """The audio of a file in blocks (L,) at a sample rate; joined, it is the whole file's.

    Channels are averaged.

    Args:
        path: WAV, FLAC, Ogg Vorbis or Opus, MP3, or what else libsndfile reads.
        sample_rate: of the result, Hz.

    Raises:
        AudioError: the file is missing, empty, damaged or cut short, or holds samples that are not
            numbers. A damaged file is found when its damaged block is read.
    """
    info = probe_audio(path)
    return resample_blocks(_decoded(Path(path)), info.sample_rate, sample_rate)


def resample_blocks(
    blocks_L: Iterable[Tensor], source_rate: int, target_rate: int
) -> Iterator[Tensor]:
    """Resamples a stream (windowed sinc, torchaudio) as if it were in one piece.

    Args:
        blocks_L: blocks of any length.
        source_rate: theirs, Hz.
        target_rate: Hz.
    """
    if source_rate == target_rate:
        yield from blocks_L
        return
    resample = Resample(source_rate, target_rate)
    common = math.gcd(source_rate, target_rate)
    down, up = source_rate // common, target_rate // common  # `down` samples become `up`
    # Samples beside a block that its outputs look at, in whole steps of `down`.
    margin = -(-_FILTER_WIDTH * max(source_rate, target_rate) // (target_rate * down)) + 1
    kept_L, left = torch.zeros(0), 0  # the end of what came; steps of it that are only context
    for block_L in blocks_L:
        kept_L = torch.cat([kept_L, block_L])
        ready = len(kept_L) // down - left - margin
        if ready <= 0:
            continue
        yield resample(kept_L)[left * up : (left + ready) * up]
        context = min(margin, left + ready)
        kept_L = kept_L[(left + ready - context) * down :]
        left = context
    if len(kept_L) > left * down:
        yield resample(kept_L)[left * up :]


def _decoded(path: Path) -> Iterator[Tensor]:
    """Blocks of the mean of a file's channels, at its own rate."""
    try:
        with open_audio(path) as file:
            size = max(1, int(file.samplerate * BLOCK_SECONDS))
            read = 0
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                samples_L = torch.from_numpy(block).mean(dim=1)
                if not bool(samples_L.isfinite().all()):
                    raise AudioError(
                        f"{path}: holds samples that are NaN or infinite: convert it again"
                    )
                read += len(block)
                yield samples_L
            if read < file.frames and file.format not in ("MP3", "MPEG"):
                raise AudioError(
                    f"{path}: truncated or damaged, decodes to {read} samples instead of "
                    f"{file.frames}: download or copy it again"
                )
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(
            f"{path}: truncated or damaged, decoding fails ({error}): download or copy it again"
        ) from error


def total_seconds(paths: Sequence[Path]) -> float:
    """Seconds of audio that the headers of files promise; unreadable ones count as 0."""
    seconds = 0.0
    for path in paths:
        try:
            seconds += probe_audio(path).duration
        except AudioError:
            continue  # is told when it is its turn
    return seconds
