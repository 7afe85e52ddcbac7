"""The speakers of the synthetic demo corpus and how one of its utterances is rendered.

A speaker is an espeak-ng voice variant with a pitch and a rate. Voice variants
are dealt to train, dev and test once and for all, siblings (``klatt``, ``klatt2``, ...) together,
so that nobody heard in training is heard in evaluation, whatever the seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import lfilter

from summarymixing_modules.data.audio import SAMPLE_RATE
from summarymixing_modules.data.demo.espeak import (
    EspeakError,
    speak,
    voice_variants,
)
from summarymixing_modules.data.demo.grammar import Sentence

UTTERANCES_PER_CHAPTER = 25
ACCENT = "en-us"  # one pronunciation of each word: minutes of training are to be enough
SPEAKERS_PER_VARIANT = 4  # they differ in pitch and rate

DEV_VARIANTS = (
    *("Alex", "Andrea", "Denis", "Storm", "Tweaky", "aunty", "grandpa", "m3", "m6", "max"),
    *("paul", "rob"),
)
TEST_VARIANTS = (
    *("Annie", "Mario", "Nguyen", "antonio", "belinda", "ed", "john", "m4", "m7", "pablo"),
    *("pedro", "quincy"),
)

_PITCH_RANGE, _PITCH_JITTER = (24, 76), 4
_RATE_RANGE, _RATE_JITTER = (150, 210), 10
_SNR_RANGE_DB = (20.0, 45.0)
_PEAK_RANGE = (0.25, 0.9)
_EDGE_RANGE_S = (0.05, 0.25)
#: Root mean square below which a rendered sentence counts as silence.
_SILENCE = 1e-3


def split_variants() -> dict[str, tuple[str, ...]]:
    """Voice variants of each LibriSpeech split, without overlap."""
    held_out = {*DEV_VARIANTS, *TEST_VARIANTS}
    train = tuple(name for name in voice_variants() if name not in held_out)
    return {"dev-clean": DEV_VARIANTS, "test-clean": TEST_VARIANTS, "train-clean-100": train}


@dataclass(frozen=True)
class Speaker:
    """One voice of the corpus.

    Attributes:
        number: LibriSpeech-style speaker id, the same for any seed and corpus size.
        variant: espeak-ng voice variant.
        accent: espeak-ng accent.
        pitch: mean pitch, espeak-ng units (0 to 99).
        rate: mean rate, words a minute.
    """

    number: int
    variant: str
    accent: str
    pitch: int
    rate: int


@dataclass(frozen=True)
class Utterance:
    """One line of a transcript: what is said, by whom, and where it goes."""

    identifier: str
    speaker: Speaker
    sentence: Sentence

    @property
    def chapter(self) -> str:
        """Chapter id, the middle field of the identifier."""
        return self.identifier.split("-")[1]

    @property
    def folder(self) -> Path:
        """``SPEAKER/CHAPTER`` inside the split's folder."""
        return Path(str(self.speaker.number), self.chapter)


def _speakers(variants: Sequence[str], seed: int) -> list[Speaker]:
    """The speakers of every variant, in an order that mixes them."""
    all_variants = voice_variants()
    speakers = []
    for variant in variants:
        for seat in range(SPEAKERS_PER_VARIANT):
            number = 1001 + all_variants.index(variant) * SPEAKERS_PER_VARIANT + seat
            rng = np.random.default_rng([seed, number])
            pitch = int(rng.integers(*_PITCH_RANGE, endpoint=True))
            rate = int(rng.integers(*_RATE_RANGE, endpoint=True))
            speakers.append(Speaker(number, variant, ACCENT, pitch, rate))
    order = np.random.default_rng([seed, len(speakers)]).permutation(len(speakers))
    return [speakers[index] for index in order]


def cast(sentences: Sequence[Sentence], variants: Sequence[str], seed: int) -> list[Utterance]:
    """Deal sentences to the speakers of a split in turn, and number them LibriSpeech style."""
    speakers = _speakers(variants, seed)
    utterances = []
    for index, sentence in enumerate(sentences):
        turn, seat = divmod(index, len(speakers))
        chapter, line = divmod(turn, UTTERANCES_PER_CHAPTER)
        speaker = speakers[seat]
        identifier = f"{speaker.number}-{speaker.number * 100 + chapter}-{line:04d}"
        utterances.append(Utterance(identifier, speaker, sentence))
    return sorted(utterances, key=lambda utterance: utterance.identifier)


def _add_room(speech_L: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """Silent edges, a level, and coloured noise at a random signal-to-noise ratio."""
    before, after = (int(SAMPLE_RATE * rng.uniform(*_EDGE_RANGE_S)) for _ in range(2))
    padded_L = np.pad(speech_L.astype(np.float64), (before, after))
    noise_L = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.95)], rng.standard_normal(len(padded_L)))
    snr_db = rng.uniform(*_SNR_RANGE_DB)
    noise_rms = np.sqrt(np.mean(np.square(speech_L))) * 10 ** (-snr_db / 20)
    mixed_L = padded_L + noise_L * (noise_rms / np.sqrt(np.mean(np.square(noise_L))))
    return mixed_L * (rng.uniform(*_PEAK_RANGE) / np.abs(mixed_L).max())


def render(utterance: Utterance, seed: int) -> NDArray[np.float64]:
    """Samples (L,) of an utterance at 16 kHz; a function of the arguments only.

    Raises:
        EspeakError: the voice produced silence, or espeak-ng is missing.
    """
    rng = np.random.default_rng([seed, zlib.crc32(utterance.identifier.encode())])
    speaker = utterance.speaker
    speech_L = speak(
        utterance.sentence.spoken,
        accent=speaker.accent,
        variant=speaker.variant,
        rate=speaker.rate + int(rng.integers(-_RATE_JITTER, _RATE_JITTER, endpoint=True)),
        pitch=speaker.pitch + int(rng.integers(-_PITCH_JITTER, _PITCH_JITTER, endpoint=True)),
        sample_rate=SAMPLE_RATE,
    )
    if np.sqrt(np.mean(np.square(speech_L))) < _SILENCE:
        raise EspeakError(
            f"{utterance.identifier}: the voice variant {speaker.variant!r} spoke only silence"
        )
    return _add_room(speech_L, rng)


def write_utterance(utterance: Utterance, split_folder: Path, seed: int) -> int:
    """Render an utterance to ``split_folder/SPEAKER/CHAPTER/ID.flac``; the folder must exist.

    Returns:
        Number of samples written.
    """
    samples_L = render(utterance, seed)
    path = split_folder / utterance.folder / f"{utterance.identifier}.flac"
    soundfile.write(path, samples_L, SAMPLE_RATE, subtype="PCM_16")
    return len(samples_L)
