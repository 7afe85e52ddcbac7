"""A corpus of some dozen spoken sentences, and recipes run through their real train.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from summarymixing_modules.bundles import export_bundle
from summarymixing_modules.cli import main
from summarymixing_modules.data.corpora.iemocap import SPEAKERS
from tests.ranks import load_script

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"

RunRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def encoder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a pre-training of one step: two layers of 16 features."""
    folder, recipe = tmp_path_factory.mktemp("encoder"), RECIPES / "LibriSpeech/SSL/BEST-RQ"
    options = ["--num_encoder_layers=2", "--d_model=16", "--nhead=2", "--d_ffn=32"]
    options += ["--cnn_channels=[4, 4]", "--codes=32", "--num_workers=0", "--training_steps=1"]
    options += ["--num_buckets=2", "--device=cpu", "--noprogressbar", "--avoid_if_shorter_than=0.5"]
    argv = [str(recipe / "hparams" / "small.yaml"), f"--data_folder={corpus}"]
    load_script(recipe / "train.py").main([*argv, f"--output_folder={folder / 'run'}", *options])
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


@pytest.fixture
def run_recipe(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecipe:
    """Runs a YAML file through its train.py on the tiny corpus; returns result.json's content."""

    def run(hparams: Path, *options: str) -> dict[str, Any]:
        defaults = {"--data_folder": corpus, "--output_folder": tmp_path / "run"}
        given = {option.split("=")[0] for option in options}
        if "--shards" in given:
            del defaults["--data_folder"]
        folders = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        argv = [str(hparams), *folders, "--device=cpu", "--noprogressbar", *options]
        train = hparams.parents[1] / "train.py"
        monkeypatch.setattr(sys, "argv", [str(train), *argv])
        return load_script(train).main(argv)

    return run


@pytest.fixture
def same_from_shards(corpus: Path, run_recipe: RunRecipe, tmp_path: Path) -> RunRecipe:
    """Runs a YAML file on a corpus and on its shards, which must give the same; returns it."""

    def run(hparams: Path, *options: str) -> dict[str, Any]:
        given = [option for option in options if option.startswith("--data_folder=")]
        own = [option for option in options if option not in given]
        data = given[0] if given else f"--data_folder={corpus}"
        written, moved = tmp_path / "written", tmp_path / "shards"
        flags = [data, *own, f"--shards={written}", "--shard_size=0.2"]
        assert main(["shard", str(hparams), *flags]) == 0
        written.rename(moved)
        results, weights = [], []
        for name, flag in (("from-files", data), ("from-shards", f"--shards={moved}")):
            folder = tmp_path / name
            results.append(run_recipe(hparams, *own, flag, f"--output_folder={folder}"))
            *_, last = sorted(folder.glob("save/CKPT+*/model.ckpt"))
            weights.append(torch.load(last, weights_only=True))
        torch.testing.assert_close(*weights, rtol=0, atol=0)
        for key in ("metrics", "optimizer_steps", "padding_share", "test_utterances"):
            assert results[0].get(key) == results[1].get(key), key
        return results[1]

    return run
