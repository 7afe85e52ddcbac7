"""A corpus of some dozen spoken sentences, and recipes run through their real train.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.bundles import export_bundle
from summarymixing_modules.data.corpora.iemocap import SPEAKERS
from summarymixing_modules.data.demo.corpus import make_demo_corpus

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"

RunRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny demo corpus in LibriSpeech's layout."""
    folder = tmp_path_factory.mktemp("corpus")
    make_demo_corpus(folder, 24, 4, 4, workers=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def encoder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a pre-training of one step: two layers of 16 features."""
    folder, recipe = tmp_path_factory.mktemp("encoder"), RECIPES / "LibriSpeech/SSL/BEST-RQ"
    options = ["--num_encoder_layers=2", "--d_model=16", "--nhead=2", "--d_ffn=32"]
    options += ["--cnn_channels=[4, 4]", "--codes=32", "--num_workers=0", "--training_steps=1"]
    options += ["--num_buckets=2", "--device=cpu", "--noprogressbar", "--avoid_if_shorter_than=0.5"]
    argv = [str(recipe / "hparams" / "small.yaml"), f"--data_folder={corpus}"]
    load_train(recipe).main([*argv, f"--output_folder={folder / 'run'}", *options])
    return export_bundle(folder / "run", folder / "bundle")


@pytest.fixture(scope="session")
def iemocap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IEMOCAP's layout with a second of noise for each of ten speakers' four emotions."""
    root = tmp_path_factory.mktemp("iemocap") / "IEMOCAP_full_release"
    draw = np.random.default_rng(0)
    for speaker in SPEAKERS:
        session, dialog = root / f"Session{int(speaker[3:5])}", f"{speaker}_impro01"
        audio, labels = session / "sentences" / "wav" / dialog, session / "dialog" / "EmoEvaluation"
        audio.mkdir(parents=True)
        labels.mkdir(parents=True, exist_ok=True)
        lines = []
        for index, emotion in enumerate(("neu", "exc", "sad", "ang")):
            turn = f"{dialog}_{speaker[-1]}{index:03d}"
            lines.append(f"[{index}.0 - {index}.9]\t{turn}\t{emotion}\t[2.5, 2.5, 2.5]\n")
            soundfile.write(audio / f"{turn}.wav", 0.1 * draw.standard_normal(16000), 16000)
        (labels / f"{dialog}.txt").write_text("".join(lines))
    return root


def load_train(recipe: Path) -> ModuleType:
    """The train.py of a recipe as a module."""
    spec = importlib.util.spec_from_file_location(f"train_{recipe.name}", recipe / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_recipe(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecipe:
    """Runs a YAML file through its train.py on the tiny corpus; returns result.json's content."""

    def run(hparams: Path, *options: str) -> dict[str, Any]:
        defaults = {"--data_folder": corpus, "--output_folder": tmp_path / "run"}
        given = {option.split("=")[0] for option in options}
        folders = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        argv = [str(hparams), *folders, "--device=cpu", "--noprogressbar", *options]
        train = hparams.parents[1] / "train.py"
        monkeypatch.setattr(sys, "argv", [str(train), *argv])
        return load_train(train.parent).main(argv)

    return run
