"""Reading audio files so that a bad one is named, with what is wrong and what to do about it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torchaudio.transforms import Resample

from summarymixing_modules.data.files import printable
from summarymixing_modules.data.shards.members import Member, MemberError
from summarymixing_modules.data.sphere import sphere_compression, sphere_samples
from summarymixing_modules.errors import InputError

StrPath = str | os.PathLike[str]
SampleKind: TypeAlias = Literal["float32", "float64", "int16", "int32"]

#: Of every corpus, Hz.
SAMPLE_RATE = 16000
#: What libsndfile decodes, by the ends of file names.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aif", ".aiff", ".au"}
)

#: libsndfile's log of a WAV file that promises more data than the file holds.
_WAV_SHORTER_THAN_PROMISED = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
#: Programs that write a WAV file to a pipe cannot know its size and put about this much.
_WAV_STREAM_BYTES = 0x7FFF0000
#: Its notes on an Ogg file of which the end is missing.
_OGG_CUT = ("File ended unexpectedly", "lacks an end-of-stream bit")


class AudioError(InputError):
    """An audio file cannot be used; the message names the file, the problem and the remedy."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes:
        frames: samples per channel.
        sample_rate: Hz.
        channels: number of channels.
    """

    frames: int
    sample_rate: int
    channels: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def probe_audio(path: StrPath) -> AudioInfo:
    """Read the header of an audio file, without decoding it.

    Raises:
        AudioError: the file is missing, empty, cut short (where the container tells) or not audio.
    """
    with open_audio(path) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def check_audio(path: StrPath, sample_rate: int | None = SAMPLE_RATE) -> AudioInfo:
    """`probe_audio`, and insist on a name that a manifest takes, and on a format.

    Args:
        path: the file.
        sample_rate: Hz; it must have that, and one channel. None: any format will do.

    Raises:
        AudioError: as `probe_audio`, the wrong rate or number of channels, or a name that is not
            UTF-8.
    """
    info = probe_audio(path)
    if printable(path) != str(path):
        raise AudioError(
            f"{printable(path)}: the name is not UTF-8, as manifests are: rename it, wherever the "
            "corpus names it"
        )
    if sample_rate is not None:
        _require_format(path, info, sample_rate)
    return info


def read_audio(
    path: StrPath, sample_rate: int = SAMPLE_RATE, start: int = 0, stop: int | None = None
) -> torch.Tensor:
    """Decode audio, or a part of it, of which nothing else is read; mixed down and resampled.

    Args:
        path: any format that libsndfile reads (WAV, FLAC, Ogg Vorbis or Opus, MP3, SPHERE).
        sample_rate: of the result, Hz.
        start: first sample wanted, at the file's own rate.
        stop: one past the last sample wanted, likewise; ``None`` is the end of the file.

    Returns:
        Samples (L,), float32: the mean of the channels, in [-1, 1] where nothing is resampled.

    Raises:
        AudioError: the file is missing, empty, damaged or cut short, holds samples that are not
            numbers, or ends before ``stop``.
    """
    with open_audio(path) as file:
        last = file.frames if stop is None else stop
        if not 0 <= start < last <= file.frames:
            raise AudioError(
                f"{printable(path)}: samples {start} to {last} were asked for, but it has "
                f"{file.frames}: check the start and stop columns of the manifest"
            )
        # Of some MP3 files the header only knows about how many samples there are.
        estimated = stop is None and file.format in ("MP3", "MPEG")
        samples_LC = torch.from_numpy(read_samples(path, file, start, last, estimated=estimated))
        samples_L = samples_LC[:, 0] if file.channels == 1 else samples_LC.mean(dim=1)
        if file.samplerate == sample_rate:
            return samples_L
        return _resampler(file.samplerate, sample_rate)(samples_L)


def read_samples(
    path: StrPath,
    file: soundfile.SoundFile,
    start: int,
    stop: int,
    kind: SampleKind = "float32",
    estimated: bool = False,
) -> NDArray[Any]:
    """A part of an open file as it is, (L, C).

    Args:
        path: of the file, for messages.
        file: open.
        start: first sample wanted.
        stop: one past the last one.
        kind: of the samples.
        estimated: there may be fewer.

    Raises:
        AudioError: the part cannot be decoded, ends too early, or has samples that are no numbers.
    """
    try:
        file.seek(start)
        samples_LC: NDArray[Any] = file.read(stop - start, dtype=kind, always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as err:
        raise _damaged(path, f"decoding fails ({err})") from err
    if len(samples_LC) < stop - start and not (estimated and len(samples_LC) > 0):
        raise _damaged(path, f"decodes to {len(samples_LC)} samples instead of {stop - start}")
    if not np.isfinite(samples_LC).all():
        raise AudioError(
            f"{printable(path)}: holds samples that are NaN or infinite: convert it again"
        )
    return samples_LC


@functools.lru_cache(maxsize=16)
def _resampler(source_rate: int, target_rate: int) -> Resample:
    """Windowed sinc; its kernel is made once for a pair of rates."""
    return Resample(source_rate, target_rate)


@contextlib.contextmanager
def open_audio(path: StrPath) -> Iterator[soundfile.SoundFile]:
    """An audio file to read from, of which the header has been looked at.

    The name is looked up once: on a file system that is far away, that is what small files cost.

    Raises:
        AudioError: the file is missing, empty, cut short (where the container tells), not audio, or
            no file.
    """
    descriptor = _open(path)
    try:
        _require_content(path, os.fstat(descriptor))
        with _sound_file(path, descriptor) as file:
            problem = _cut_short(file.extra_info) or _sphere_cut_short(descriptor, file)
            if problem:
                raise _damaged(path, problem)
            if file.frames == 0:
                raise AudioError(
                    f"{printable(path)}: holds no samples (zero length): download or copy it again"
                )
            yield file
    finally:
        os.close(descriptor)


def _open(path: StrPath) -> int:
    """A descriptor of a file, or of the content of a member of a shard."""
    member = Member.of(path)
    try:
        if member is not None:
            return member.open()
        # Without O_NONBLOCK, opening a pipe waits for somebody to write into it.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as err:
        raise AudioError(f"{printable(path)}: {_why_not_opened(err)}") from err
    except MemberError as err:
        raise AudioError(
            f"{printable(path)}: truncated or damaged, {err}: copy the shard again (`summarymixing "
            "shard --verify FOLDER` tells which)"
        ) from err


def _sound_file(path: StrPath, descriptor: int) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(descriptor, closefd=False)
    except (soundfile.SoundFileError, OSError) as err:
        if coding := sphere_compression(descriptor):
            name = printable(Path(path).name)
            raise AudioError(
                f"{printable(path)}: its samples are compressed ({coding}), which libsndfile does "
                f"not read: expand it, and put the result in its place (sph2pipe -p -f sph {name} "
                f"expanded/{name})"
            ) from err
        reason = str(err).rpartition(": ")[2] or "unknown format"
        raise AudioError(
            f"{printable(path)}: cannot be read as audio ({reason}): download or copy it again"
        ) from err


def _why_not_opened(err: OSError) -> str:
    if isinstance(err, PermissionError):
        return "may not be read (permission denied): change its owner or mode (chmod u+r)"
    if isinstance(err, FileNotFoundError | NotADirectoryError):
        return "no such audio file: check that the corpus is complete"
    return f"cannot be opened ({err.strerror})"


def _require_content(path: StrPath, state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe or a device"
        raise AudioError(
            f"{printable(path)}: is {kind}, not a file: put the audio file in its place"
        )
    if state.st_size == 0:
        raise AudioError(
            f"{printable(path)}: the file is empty (0 bytes): download or copy it again"
        )


def _cut_short(log: str) -> str:
    """What libsndfile noted about a file that ends too early, or an empty string."""
    if any(note in log for note in _OGG_CUT):
        return "the Ogg stream stops without an end mark"
    match = _WAV_SHORTER_THAN_PROMISED.search(log)
    if match and int(match[2]) < int(match[1]) < _WAV_STREAM_BYTES:
        return f"the header promises {match[1]} bytes of samples, the file holds {match[2]}"
    return ""


def _sphere_cut_short(descriptor: int, file: soundfile.SoundFile) -> str:
    """As `_cut_short`; of a SPHERE file, libsndfile counts the samples that are there."""
    promised = sphere_samples(descriptor) if file.format == "NIST" else None
    if promised is None or file.frames >= promised:
        return ""
    return f"the header promises {promised} samples, the file holds {file.frames}"


def _damaged(path: StrPath, problem: str) -> AudioError:
    return AudioError(
        f"{printable(path)}: truncated or damaged, {problem}: download or copy it again"
    )


def _require_format(path: StrPath, info: AudioInfo, sample_rate: int) -> None:
    shown = printable(path)
    name = Path(shown).name
    if info.channels != 1:
        raise AudioError(
            f"{shown}: has {info.channels} channels, one is needed: mix it down "
            f"(for example: sox {name} -c 1 mono/{name})"
        )
    if info.sample_rate != sample_rate:
        raise AudioError(
            f"{shown}: is sampled at {info.sample_rate} Hz, {sample_rate} Hz is needed: resample "
            f"it (for example: sox {name} -r {sample_rate} resampled/{name})"
        )
