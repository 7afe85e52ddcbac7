"""The Libri-Light recipes: every YAML on a tiny corpus, two processes, resuming, bad settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.recipe.yaml_checks import read_recipe
from tests.ranks import run_on_two_ranks

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes" / "Libri-Light" / "SSL"
RECIPE = RECIPES / "BEST-RQ"
LIBRISPEECH = ROOT / "recipes" / "LibriSpeech" / "SSL" / "BEST-RQ" / "hparams"
YAMLS = sorted(RECIPES.glob("*/hparams/*.yaml"))
SMALL = RECIPE / "hparams" / "small.yaml"
RunRecipe = Callable[..., dict[str, Any]]

COMMON = [
    "--num_encoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--d_ffn=32",
    "--kernel_size=7",
    "--num_workers=0",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--train_splits=[small]",
    "--valid_hours=0.005",
    "--warmup_steps=2",
    "--training_steps=2",
]
TINY = [*COMMON, "--cnn_channels=[4, 4]", "--codes=32"]
TINY_WAV2VEC2 = [
    *COMMON,
    "--cnn_channels=32",
    "--codes=8",
    "--code_dim=8",
    "--comparison_dim=8",
    "--negatives=10",
    "--grad_accumulation_factor=1",
    "--precision=fp32",
    "--avoid_if_shorter_than=2",
]


@pytest.fixture(scope="session")
def librilight(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus's training speech, joined to recordings with silence between."""
    folder = tmp_path_factory.mktemp("librilight")
    clips = sorted((corpus / "LibriSpeech" / "train-clean-100").rglob("*.flac"))
    for speaker in range(6):
        signal, voice = [np.zeros(3000)], []
        for clip in clips[speaker::6]:
            start = sum(map(len, signal)) / 16000
            signal += [soundfile.read(clip)[0], np.zeros(9000)]
            voice.append([start, sum(map(len, signal[:-1])) / 16000])
        audio = folder / "Libri-Light" / "small" / f"{speaker}" / "book" / "file.flac"
        audio.parent.mkdir(parents=True)
        soundfile.write(audio, np.concatenate(signal), 16000)
        audio.with_suffix(".json").write_text(json.dumps({"voice_activity": voice}))
    return folder


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_yaml_trains_and_reports(
    hparams: Path, librilight: Path, tmp_path: Path, run_recipe: RunRecipe
) -> None:
    tiny = TINY if RECIPE in hparams.parents else TINY_WAV2VEC2
    result = run_recipe(hparams, *tiny, f"--data_folder={librilight}")
    assert result["optimizer_steps"] == 2 and np.isfinite(result["metrics"]["valid_loss"])
    rows = read_manifest(tmp_path / "run" / "save" / "train.csv")
    assert rows and all(2 <= row.duration <= 60 and row.stop is not None for row in rows)
    written = (tmp_path / "run" / "hyperparams.yaml").read_text()
    assert "valid_hours: 0.005" in written and "dev_splits: []" in written


@pytest.mark.parametrize(
    "hparams",
    [path for path in YAMLS if path.stem != "base"],
    ids=lambda path: f"{path.parts[-3]}-{path.stem}",
)
def test_variants_have_the_settings_of_the_librispeech_recipe(hparams: Path) -> None:
    """Only what the corpus changes, and the folder of the results, differ."""
    corpus = {"corpus", "train_splits", "dev_splits", "valid_hours", "max_pause"}
    corpus |= {"avoid_if_longer_than", "output_folder"}
    theirs = ROOT / "recipes" / "LibriSpeech" / hparams.relative_to(RECIPES.parent)
    settings = []
    for file in (hparams, theirs):
        tree = read_recipe(file).tree
        given = {key: str(getattr(node, "value", node)) for key, node in tree.items()}
        settings.append({k: v for k, v in given.items() if k not in corpus})
    assert settings[0] == settings[1]


def test_goes_on_with_what_was_prepared(librilight: Path, run_recipe: RunRecipe) -> None:
    options = [*TINY, f"--data_folder={librilight}"]
    first = run_recipe(SMALL, *options, "--optimizer_step_limit=1")
    second = run_recipe(SMALL, *options, "--skip_prep=True")
    assert (first["optimizer_steps"], first["epochs"]) == (1, 1)
    assert (second["optimizer_steps"], second["epochs"]) == (2, 2)


def test_two_processes(librilight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*TINY, f"--data_folder={librilight}", "--activation_checkpointing=True"]
    result = run_on_two_ranks(SMALL, folder, *options, "--curve_interval=1", "--log_interval=2")
    means = result["per_step"]
    assert means["audio_hours"] * 2 == pytest.approx(result["audio_hours_seen"])
    assert 20 < means["frames"] / (3600 * means["audio_hours"]) < 30, "frames of 40 ms"
    assert f"step 2: loss {result_loss(folder)}" in (folder / "log.txt").read_text()


def result_loss(folder: Path) -> str:
    """Mean loss of the points of the last checkpoint, as the log writes it."""
    (history,) = folder.glob("save/CKPT*/history.ckpt")
    losses = json.loads(history.read_text())["curves"]["loss"]
    return f"{sum(losses) / len(losses):.4g}"


@pytest.mark.parametrize(
    ("hparams", "options", "message"),
    [
        (SMALL, ["--dev_splits=[dev-clean]"], "--dev_splits .*held out for validation"),
        (SMALL, ["--valid_hours=0.00001"], "nobody can be held out"),
        (SMALL, ["--max_pauze=2"], "--max_pauze is neither .* Did you mean --max_pause"),
        (
            LIBRISPEECH / "base.yaml",
            ["--dev_splits=[]"],
            "needs a value for max_pause: give --max_pause=VALUE",
        ),
    ],
)
def test_bad_settings_are_told(
    hparams: Path,
    options: list[str],
    message: str,
    librilight: Path,
    tmp_path: Path,
    run_recipe: RunRecipe,
) -> None:
    rest = [o for o in TINY if o.split("=")[0] != options[0].split("=")[0]]
    if hparams != SMALL:  # another recipe's YAML file, given to this train.py
        rest = [option for option in rest if "valid_hours" not in option]
        hparams = tmp_path / "hparams" / "other.yaml"
        hparams.parent.mkdir()
        hparams.write_text(f"base: {LIBRISPEECH / 'base.yaml'}\ncorpus: librilight\n")
        (tmp_path / "train.py").symlink_to(RECIPE / "train.py")
    with torch.random.fork_rng(), pytest.raises(InputError, match=message):
        run_recipe(hparams, *rest, *options, f"--data_folder={librilight}", "--debug")


def test_a_variant_adds_only_keys_that_are_read(
    librilight: Path, tmp_path: Path, run_recipe: RunRecipe
) -> None:
    variant = tmp_path / "hparams" / "own.yaml"
    variant.parent.mkdir()
    base = SMALL.read_text().replace("../../../..", str(ROOT / "recipes"))
    variant.write_text(base + "valid_minutes: 3\n")
    (tmp_path / "train.py").symlink_to(RECIPE / "train.py")
    with pytest.raises(InputError, match="Nothing reads the key 'valid_minutes' .*own.yaml, line"):
        run_recipe(variant, *TINY, f"--data_folder={librilight}")


def test_shards_train_the_same(librilight: Path, same_from_shards: RunRecipe) -> None:
    """Utterances are parts of recordings, which shards have cut out."""
    same_from_shards(SMALL, *TINY, f"--data_folder={librilight}")
