"""A tiny synthetic corpus, and the recorded-speech folder where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.demo.corpus import make_demo_corpus
from summarymixing_modules.data.manifest import DATA_ROOT, Row, write_manifest

#: Sentences for train, dev and test.
TINY = (12, 3, 4)


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny demo corpus: look, do not touch."""
    pytest.importorskip("espeakng_loader", reason="the demo corpus needs espeakng-loader")
    return make_demo_corpus(
        tmp_path_factory.mktemp("demo"), *TINY, workers=1, progress=False
    ).folder


@pytest.fixture
def corpus(demo_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny corpus that a test may damage: the folder above ``LibriSpeech``."""
    shutil.copytree(demo_folder / "LibriSpeech", tmp_path / "corpus" / "LibriSpeech")
    (tmp_path / "corpus" / "LibriSpeech" / "demo.json").unlink()
    return tmp_path / "corpus"


@pytest.fixture
def recorded_librispeech() -> Path:
    """The folder ``LibriSpeech`` of the recorded-speech data: 40 utterances of train-clean-100."""
    checkout = Path(__file__).resolve().parents[3]
    default = checkout.parent / "shared" / "data"
    data = Path(os.environ.get("SUMMARYMIXING_SPEECH_DATA", default))
    folder = data / "libri" / "LibriSpeech"
    if not folder.is_dir():
        pytest.skip(f"no recorded speech in {data} (set SUMMARYMIXING_SPEECH_DATA)")
    return folder


@pytest.fixture
def noise_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Makes a manifest of noise files, given name, durations in seconds and transcripts."""

    def make(name: str, durations: list[float], texts: list[str] | None = None) -> Path:
        rng = np.random.default_rng(0)
        rows = []
        for index, duration in enumerate(durations):
            identifier = f"{name}-{index}"
            path = tmp_path / "audio" / f"{identifier}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, 0.1 * rng.standard_normal(int(16000 * duration)), 16000)
            text = texts[index] if texts else f"TEXT {chr(65 + index % 26)}"
            rows.append(Row(identifier, duration, f"{DATA_ROOT}/{path.name}", name, text))
        csv_path = tmp_path / f"{name}.csv"
        write_manifest(csv_path, rows)
        return csv_path

    return make
