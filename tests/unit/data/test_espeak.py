"""The synthesiser: reproducible, audible, and clear about what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("espeakng_loader", reason="speech synthesis needs espeakng-loader")

from summarymixing_modules.data.demo import espeak
from summarymixing_modules.data.demo.espeak import ACCENTS, EspeakError, speak, voice_variants

SENTENCE = "We'll find seven green apples behind the old church."


def test_same_arguments_same_samples_whatever_was_spoken_before() -> None:
    alone = speak(SENTENCE, variant="croak", rate=200, pitch=60)
    speak("Something else.", accent="en-029", variant="klatt4", rate=150, pitch=20)
    again = speak(SENTENCE, variant="croak", rate=200, pitch=60)
    assert np.array_equal(alone, again)


@pytest.fixture(scope="module")
def spoken_by_all() -> dict[str, NDArray[np.float32]]:
    return {variant: speak("Good evening.", variant=variant) for variant in voice_variants()}


def test_every_variant_gives_the_same_samples_in_another_process(
    spoken_by_all: dict[str, NDArray[np.float32]],
) -> None:
    code = (
        "import runpy, sys\n"
        f"module = runpy.run_path({str(espeak.__file__)!r})\n"
        "for variant in module['voice_variants']():\n"
        "    samples = module['speak']('Good evening.', variant=variant)\n"
        "    sys.stdout.buffer.write(samples.tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert there == b"".join(samples.tobytes() for samples in spoken_by_all.values())


def test_every_variant_speaks_and_none_like_another(
    spoken_by_all: dict[str, NDArray[np.float32]],
) -> None:
    assert len(spoken_by_all) >= 80
    for variant, samples in spoken_by_all.items():
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert 0.4 < len(samples) / 16000 < 2.5, variant
        assert 0.005 < np.sqrt(np.mean(samples**2)) < 0.5, variant
        assert np.abs(samples).max() <= 1.0
    distinct = {samples.tobytes() for samples in spoken_by_all.values()}
    assert len(distinct) == len(spoken_by_all)


def test_accent_rate_pitch_and_sample_rate_matter() -> None:
    by_accent = {accent: speak(SENTENCE, accent=accent).tobytes() for accent in ACCENTS}
    assert len(set(by_accent.values())) == len(ACCENTS)
    slow, fast = speak(SENTENCE, rate=140), speak(SENTENCE, rate=220)
    assert len(slow) > 1.3 * len(fast)
    assert not np.array_equal(speak(SENTENCE, pitch=20), speak(SENTENCE, pitch=80))
    low_rate = speak(SENTENCE, sample_rate=8000)
    assert abs(2 * len(low_rate) - len(speak(SENTENCE))) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accent": "en-gb"}, "accent 'en-gb': use one of en-us"),
        ({"variant": "nobody"}, "'nobody' is not offered (unknown)"),
        ({"variant": "whisper"}, "'whisper' is not offered (whispered)"),
        ({"text": " "}, "the text ' ' has nothing to say"),
    ],
)
def test_refusals_say_why(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(EspeakError) as caught:
        speak(**{"text": SENTENCE, **arguments})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(EspeakError, match="pip install espeakng-loader"):
        espeak._loader()
