"""Noise, rooms and other voices, of which padding is no part.

SpeechBrain's ``AddNoise``, ``AddReverb`` and ``AddBabble`` see the padded batch: noise falls into
padding, one room is drawn for a whole batch, a circular convolution lets the end of an utterance
sound at its beginning, and a loader of their own, which no checkpoint knows, draws the files. Here
each utterance is augmented as if it were alone, padding stays zero, and the numbers come from the
CPU's generator, in one tensor for a batch: a resumed training draws what the first would have.

Shape suffixes: B batch, L samples, K samples of a room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torchaudio.functional import fftconvolve

from summarymixing_modules.data.audio import (
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    AudioError,
    AudioInfo,
    probe_audio,
    read_audio,
)
from summarymixing_modules.data.tables import read_table
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.augmentation import absolute_lengths

_QUIET = 1e-10  # power of what counts as silence


@dataclass(frozen=True)
class Recordings:
    """Files to draw from.

    Attributes:
        flag: that names them.
        files: at least one, and what their headers say.
        sample_rate: that they are wanted at, Hz.
    """

    flag: str
    files: Sequence[tuple[Path, AudioInfo]]
    sample_rate: int

    @classmethod
    def of(cls, source: str, flag: str, sample_rate: int) -> Recordings:
        """The files of a folder and those in it, or of a table's column ``path``.

        Raises:
            InputError: there is no such folder or table, it has none, or one cannot be read; names
                the flag and the file.
        """
        place = Path(source)
        if place.is_dir():
            inside = sorted(place.rglob("*"))
            files = [path for path in inside if path.suffix.lower() in AUDIO_SUFFIXES]
        else:
            rows = read_table(place, flag, ["path"])
            files = [place.absolute().parent / row.get("path") for row in rows]
        if not files:
            raise InputError(f"--{flag}={source}: holds no audio files: give others, or null.")
        try:
            return cls(flag, [(file, probe_audio(file)) for file in files], sample_rate)
        except AudioError as error:
            raise InputError(f"--{flag}={source}: {error}") from None

    def part(self, drawn: float, offset: float, samples: int) -> Tensor:
        """So many samples of a file, repeated where it is shorter.

        Args:
            drawn: in [0, 1), says which file.
            offset: in [0, 1), says where it begins.
            samples: how many.
        """
        file, info = self.files[int(drawn * len(self.files))]
        wanted = -(-samples * info.sample_rate // self.sample_rate)
        start = int(offset * max(1, info.frames - wanted + 1))
        stop = min(info.frames, start + wanted)
        part_L = read_audio(file, self.sample_rate, start, stop)
        return part_L.repeat(-(-samples // len(part_L)))[:samples]

    def room(self, drawn: float) -> Tensor:
        """An impulse response (K,), from its direct sound on."""
        return _impulse(self.files[int(drawn * len(self.files))][0], self.sample_rate)


@lru_cache(maxsize=256)
def _impulse(file: Path, sample_rate: int) -> Tensor:
    impulse_K = read_audio(file, sample_rate)
    return impulse_K[int(impulse_K.abs().argmax()) :]


class NoiseAndRooms(nn.Module):
    """Utterances as they sound in a room, and then with noise; without recordings, as they are.

    A room keeps the power of an utterance, and what sounds on after its end is cut. The
    signal-to-noise ratio is that of the powers of the utterance and of the noise beside it.

    Args:
        noise_manifest: recordings of noise, a folder or a table; None for none.
        rir_manifest: impulse responses of rooms, likewise.
        noise_prob: share of the utterances that get noise.
        noise_snr_low, noise_snr_high: the ratio is drawn between them, dB.
        rir_prob: share of the utterances that get a room.
        sample_rate: of the audio, Hz.

    Raises:
        InputError: the lower ratio is above the higher.
    """

    def __init__(
        self,
        noise_manifest: str | None = None,
        rir_manifest: str | None = None,
        noise_prob: float = 1.0,
        noise_snr_low: float = 0.0,
        noise_snr_high: float = 15.0,
        rir_prob: float = 1.0,
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        super().__init__()
        if noise_snr_low > noise_snr_high:
            raise InputError(
                f"--noise_snr_low={noise_snr_low} is above --noise_snr_high={noise_snr_high}: "
                "exchange them."
            )
        self.noise_manifest, self.rir_manifest = noise_manifest, rir_manifest
        self.noise_prob, self.rir_prob = noise_prob, rir_prob
        self.snrs, self.sample_rate = (noise_snr_low, noise_snr_high), sample_rate
        self._recordings: dict[str, Recordings] = {}

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.noise_manifest is not None or self.rir_manifest is not None

    def forward(self, samples_BL: Tensor, share_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio of the same lengths, zero where it is padding, and the same shares.

        Args:
            samples_BL: audio.
            share_B: share of real samples.
        """
        if not self.active:
            return samples_BL, share_B
        draws = torch.rand(len(samples_BL), 6, dtype=torch.float64).tolist()
        samples_BL = samples_BL.clone()
        lengths = absolute_lengths(share_B, samples_BL.shape[1]).tolist()
        for row, (length, drawn) in enumerate(zip(lengths, draws, strict=True)):
            if length:
                samples_BL[row, :length] = self._surrounded(samples_BL[row, :length], drawn)
        return samples_BL, share_B

    def _surrounded(self, samples_L: Tensor, drawn: Sequence[float]) -> Tensor:
        """One utterance, with numbers in [0, 1)."""
        with_room, which_room, with_noise, which_noise, offset, ratio = drawn
        if (rooms := self._of("rir_manifest")) is not None and with_room < self.rir_prob:
            samples_L = in_room(samples_L, rooms.room(which_room).to(samples_L.device))
        if (noises := self._of("noise_manifest")) is not None and with_noise < self.noise_prob:
            noise_L = noises.part(which_noise, offset, len(samples_L)).to(samples_L.device)
            low, high = self.snrs
            samples_L = samples_L + at_ratio(noise_L, samples_L, low + ratio * (high - low))
        return samples_L

    def _of(self, flag: str) -> Recordings | None:
        """The recordings of a flag, looked at when they are first wanted: in training alone."""
        if (source := getattr(self, flag)) is None:
            return None
        if flag not in self._recordings:
            self._recordings[flag] = Recordings.of(source, flag, self.sample_rate)
        return self._recordings[flag]


class UtteranceMixing(nn.Module):
    """Pieces of other utterances of the batch (WavLM, arXiv 2110.13900, §III-B).

    A piece of at most half of an utterance, of which another one has as much, is added to it
    anywhere, weaker or louder by up to 5 dB. Alone in a batch, an utterance stays as it is.

    Args:
        mixing_prob: share of the utterances that get one.
    """

    def __init__(self, mixing_prob: float = 0.0) -> None:
        super().__init__()
        self.mixing_prob = mixing_prob

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.mixing_prob > 0

    def forward(self, samples_BL: Tensor, share_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio of the same lengths, and the same shares.

        Args:
            samples_BL: audio.
            share_B: share of real samples.
        """
        if not self.active or len(samples_BL) < 2:
            return samples_BL, share_B
        draws = torch.rand(len(samples_BL), 6, dtype=torch.float64).tolist()
        mixed_BL = samples_BL.clone()
        lengths = absolute_lengths(share_B, samples_BL.shape[1]).tolist()
        for row, (use, which, size, place, begin, ratio) in enumerate(draws):
            other = (row + 1 + int(which * (len(lengths) - 1))) % len(lengths)
            samples = min(int(size * lengths[row] / 2), lengths[other])
            if use >= self.mixing_prob or not samples:
                continue
            at = int(place * (lengths[row] - samples + 1))
            start = int(begin * (lengths[other] - samples + 1))
            piece_L = samples_BL[other, start : start + samples]
            own_L = samples_BL[row, at : at + samples]
            mixed_BL[row, at : at + samples] += at_ratio(piece_L, own_L, 10 * ratio - 5)
        return mixed_BL, share_B


def in_room(samples_L: Tensor, impulse_K: Tensor) -> Tensor:
    """Audio (L,) in a room, of the same power.

    Args:
        samples_L: audio.
        impulse_K: the room's answer to an impulse, from its direct sound on.
    """
    heard_L = fftconvolve(samples_L, impulse_K)[: len(samples_L)]
    power, before = heard_L.square().mean(), samples_L.square().mean()
    return heard_L * (before / power.clamp(min=_QUIET)).sqrt()


def at_ratio(noise_L: Tensor, samples_L: Tensor, decibels: float) -> Tensor:
    """Noise that is so many decibels weaker than audio of its length; zero where it is silent."""
    power, own = samples_L.square().mean(), noise_L.square().mean()
    gain = (power / own.clamp(min=_QUIET) * 10 ** (-decibels / 10)).sqrt()
    return noise_L * torch.where(own > _QUIET, gain, 0.0)
