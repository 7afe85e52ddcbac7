"""Speech synthesis with espeak-ng, called through ctypes, reproducible to the bit.

The shared library and its voices come from the ``espeakng-loader`` package. espeak-ng keeps state
between utterances (flutter, noise and pitch counters live in static variables), so the same call
gives different samples depending on what was spoken before. Each utterance therefore loads the
library anew (about 6 ms), which makes its samples a function of the arguments alone.
"""

from __future__ import annotations

import _ctypes
import ctypes
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, resample_poly

from summarymixing_modules.errors import InputError

#: English accents that espeak-ng accepts by name (plain ``en-gb`` is refused by the library).
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")

_BREATH = "its breath noise reads uninitialised memory in espeak-ng: not reproducible"

#: Voice variants never offered, with the reason.
EXCLUDED_VARIANTS = {
    **dict.fromkeys(("Alicia", "Demonic", "f2", "f3", "f5", "sandro", "victor"), _BREATH),
    **dict.fromkeys(("whisper", "whisperf"), "whispered"),
    **dict.fromkeys(("AnxiousAndy", "Marco"), "drawls far beyond the rate asked for"),
    **dict.fromkeys(("UniRobot", "kaukovalta", "zac"), "hardly intelligible"),
    "klatt6": "duplicate of adam",
    "steph3": "duplicate of steph2",
}

_RETRIEVAL_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_RATE, _VOLUME, _PITCH = 1, 2, 3
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
#: Below 100 so that the loud variants do not clip inside espeak-ng.
_VOLUME_PERCENT = 60

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class EspeakError(InputError):
    """espeak-ng is missing, or refused what it was asked to do."""


def _loader() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as err:
        raise EspeakError(
            "the synthetic demo corpus needs espeak-ng: pip install espeakng-loader"
        ) from err
    return espeakng_loader


def _variants_folder() -> Path:
    return Path(_loader().get_data_path()) / "voices" / "!v"


@cache
def voice_variants() -> tuple[str, ...]:
    """Names of the usable voice variants, sorted; see `EXCLUDED_VARIANTS` for those left out.

    Raises:
        EspeakError: espeakng-loader is not installed.
    """
    names = (path.name for path in _variants_folder().iterdir() if path.is_file())
    return tuple(sorted(name for name in names if name not in EXCLUDED_VARIANTS))


class _Library:
    """One fresh copy of the shared library, open for the length of a ``with`` block."""

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.int16]] = []
        # Kept on the object: the library calls it, and ctypes does not hold a reference.
        self._callback = _SynthCallback(self._collect)

    def _collect(self, samples: Any, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def __enter__(self) -> _Library:
        self._lib = ctypes.CDLL(_loader().get_library_path())
        self._lib.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            *[ctypes.c_uint] * 4,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        # Breath and Klatt noise come from the C library's generator.
        ctypes.CDLL(None).srand(1)
        data_path = str(_loader().get_data_path()).encode()
        self.sample_rate = int(
            self._lib.espeak_Initialize(_RETRIEVAL_SYNCHRONOUS, 0, data_path, _DONT_EXIT)
        )
        if self.sample_rate <= 0:
            raise EspeakError("espeak-ng did not start: reinstall the package espeakng-loader")
        self._lib.espeak_SetSynthCallback(self._callback)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._lib.espeak_Terminate()
        _ctypes.dlclose(self._lib._handle)

    def synthesize(self, text: str, voice: str, rate: int, pitch: int) -> NDArray[np.int16]:
        """Samples at `sample_rate` of ``text`` spoken by ``voice`` (accent+variant)."""
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"espeak-ng refused the voice {voice!r}: use one of {ACCENTS}")
        for parameter, value in ((_RATE, rate), (_VOLUME, _VOLUME_PERCENT), (_PITCH, pitch)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        raw = text.encode() + b"\0"
        status = self._lib.espeak_Synth(
            raw, len(raw), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if status != 0 or not self._chunks:
            raise EspeakError(f"espeak-ng spoke nothing for {text!r} (status {status})")
        return np.concatenate(self._chunks)


def speak(
    text: str,
    accent: str = "en-us",
    variant: str | None = None,
    rate: int = 170,
    pitch: int = 50,
    sample_rate: int = 16000,
) -> NDArray[np.float32]:
    """Speak a sentence. The result depends on the arguments only.

    Args:
        text: sentence in normal spelling (lower case: capitals may be spelled out).
        accent: one of `ACCENTS`.
        variant: one of `voice_variants`; ``None`` is espeak-ng's base voice.
        rate: words a minute, 80 to 450.
        pitch: 0 to 99, relative to the variant's own.
        sample_rate: of the result, Hz.

    Returns:
        Mono samples (L,) in [-1, 1].

    Raises:
        EspeakError: the package is missing, or the voice or text was refused.
    """
    if not text.strip():
        raise EspeakError(f"the text {text!r} has nothing to say")
    if accent not in ACCENTS:
        raise EspeakError(f"accent {accent!r}: use one of {', '.join(ACCENTS)}")
    # espeak-ng silently falls back to the base voice for a variant that it does not know.
    if variant is not None and variant not in voice_variants():
        reason = EXCLUDED_VARIANTS.get(variant, "unknown")
        raise EspeakError(f"voice variant {variant!r} is not offered ({reason})")
    voice = accent if variant is None else f"{accent}+{variant}"
    with _Library() as library:
        samples = library.synthesize(text, voice, rate, pitch)
        source_rate = library.sample_rate
    divisor = int(np.gcd(source_rate, sample_rate))
    up, down = sample_rate // divisor, source_rate // divisor
    scaled = samples.astype(np.float64) / 32768.0
    resampled = resample_poly(scaled, up, down, window=_resampling_filter(max(up, down)))
    return np.clip(resampled, -1.0, 1.0).astype(np.float32)


@cache
def _resampling_filter(factor: int) -> NDArray[np.float64]:
    """scipy's own choice for `resample_poly`, designed once instead of for every utterance."""
    return firwin(20 * factor + 1, 1.0 / factor, window=("kaiser", 5.0))
