"""One shard: a tar file in WebDataset's layout, two members for every utterance.

``NAME.flac`` (or another suffix) is the audio, ``NAME.json`` has ``id``, ``text``, ``speaker``,
``duration`` (seconds) and ``labels``. NAME is the ID, in which a dot (where WebDataset would end
the name) and what file systems do not take are written as in a URL (``%2E``).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import soundfile

from summarymixing_modules.data.audio import AudioError, SampleKind, open_audio, read_samples
from summarymixing_modules.data.files import printable
from summarymixing_modules.data.manifest import Row
from summarymixing_modules.data.shards.members import Member

#: What becomes of audio: FLAC where that changes no sample, or the files as they are.
Coding = Literal["flac", "as_is"]

_NOT_IN_NAMES = re.compile(r"[%.\\\x00-\x1f\x7f]|^/|(?<=/)(?=/)")
#: Subtype of a file → (how samples are read, subtype of a FLAC file that holds them exactly).
_EXACT: dict[str, tuple[SampleKind, str]] = {
    **dict.fromkeys(("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW"), ("int16", "PCM_16")),
    "PCM_24": ("int32", "PCM_24"),
}
#: Of all others FLAC comes nearest so: within half a step of 24 bits.
_NEAREST: tuple[SampleKind, str] = ("float64", "PCM_24")
_FLAC_CHANNELS, _FLAC_RATE = 8, 655350  # at most


class ShardWriter:
    """Adds utterances to a shard, and sums what is written.

    Args:
        file: to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = _Summed(file)
        # GNU's format takes names and files of any length, which every tar reads.
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT)

    def add(self, row: Row, labels: Mapping[str, Any], content: bytes, suffix: str) -> Member:
        """Add an utterance.

        Args:
            row: of its manifest.
            labels: its annotation.
            content: its audio.
            suffix: of that, with the dot.

        Returns:
            where its audio lies; ``shard`` is empty.
        """
        name = member_name(row.id)
        offset = self._add(f"{name}{suffix}", content)
        about = {
            "id": row.id,
            "text": row.wrd,
            "speaker": row.spk_id,
            "duration": row.duration,
            "labels": dict(labels),
        }
        self._add(f"{name}.json", json.dumps(about, ensure_ascii=False).encode())
        return Member("", offset, len(content), zlib.crc32(content))

    def close(self) -> str:
        """End the tar file; returns its SHA-256."""
        self._tar.close()
        return self._file.digest.hexdigest()

    def _add(self, name: str, content: bytes) -> int:
        """Add a member whose owner and time are nobody's: one content, one shard."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        return self._file.tell() - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class _Summed(io.RawIOBase):
    """A file whose SHA-256 is known when it has been written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.written = file, hashlib.sha256(), 0

    def write(self, content: Any) -> int:
        self.digest.update(content)
        self.written += len(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.written


def member_name(name: str) -> str:
    """The name of an utterance in a shard, without suffix.

    >>> member_name("id10270/x6uYqmx31kE/00001.wav")
    'id10270/x6uYqmx31kE/00001%2Ewav'
    """
    return _NOT_IN_NAMES.sub(lambda match: f"%{ord(match[0] or '/'):02X}", name)


def encode(path: str, start: int, stop: int | None, coding: Coding) -> tuple[bytes, str]:
    """The content of a member, and its suffix.

    A whole file keeps its bytes if it is FLAC, if FLAC cannot hold its samples exactly (MP3, Ogg,
    floating point), or if files are wanted as they are. A part of a file becomes FLAC, at the
    file's rate with its channels.

    Args:
        path: of the file, or of a member of another shard.
        start: first sample of the utterance, at the file's rate.
        stop: one past its last sample; None is the end of the file.
        coding: see `Coding`.

    Raises:
        AudioError: the file is missing or damaged, or FLAC cannot hold a part of it.
    """
    with open_audio(path) as file:
        stop = file.frames if stop is None else stop
        whole = start == 0 and stop == file.frames
        fits = file.channels <= _FLAC_CHANNELS and file.samplerate <= _FLAC_RATE
        exact = file.subtype in _EXACT and fits and file.format != "FLAC"
        if whole and (coding == "as_is" or not exact):
            return _bytes_of(path), _suffix(path, file)
        if not fits:
            raise AudioError(
                f"{printable(path)}: {file.channels} channels at {file.samplerate} Hz do not fit "
                "into FLAC, which parts of files become: convert it"
            )
        return _as_flac(path, file, start, stop), ".flac"


def _as_flac(path: str, file: soundfile.SoundFile, start: int, stop: int) -> bytes:
    kind, subtype = _EXACT.get(file.subtype, _NEAREST)
    samples_LC = read_samples(path, file, start, stop, kind)
    content = io.BytesIO()
    soundfile.write(content, samples_LC, file.samplerate, subtype, format="FLAC")
    return content.getvalue()


def _bytes_of(path: str) -> bytes:
    member = Member.of(path)
    return Path(path).read_bytes() if member is None else member.read()


def _suffix(path: str, file: soundfile.SoundFile) -> str:
    if file.format in ("FLAC", "WAV") or Member.of(path) is not None:
        return f".{file.format.lower()}"
    return Path(path).suffix.lower() or f".{file.format.lower()}"
