"""The BEST-RQ recipe: every YAML, sizes, bad input. Resuming and ranks: tests/reliability."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.widths import published_sizes
from tests.recipes.tiny import built

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "SSL" / "BEST-RQ"
HPARAMS = RECIPE / "hparams"
YAMLS = sorted(HPARAMS.glob("*.yaml"))
SMALL = HPARAMS / "small.yaml"
RunRecipe = Callable[..., dict[str, Any]]

TINY = [
    "--num_encoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--d_ffn=32",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--codes=32",
    "--num_workers=0",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--train_splits=[train-clean-100]",
    "--avoid_if_shorter_than=0.5",
    "--warmup_steps=2",
]


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_and_reports(hparams: Path, run_recipe: RunRecipe) -> None:
    result = run_recipe(hparams, *TINY, "--training_steps=2")
    metrics = result["metrics"]
    assert result["optimizer_steps"] == 2 and np.isfinite(metrics["valid_loss"])
    assert 0 <= metrics["valid_accuracy"] <= 100 and metrics["valid_codes"] > 1
    assert 0 < metrics["valid_entropy"] <= 5


@pytest.mark.parametrize("attention_type", ["RoPEMHA", "hypermixing", "fastformer", "mamba"])
def test_other_mixers(attention_type: str, run_recipe: RunRecipe) -> None:
    result = run_recipe(SMALL, *TINY, f"--attention_type={attention_type}", "--debug")
    assert np.isfinite(result["metrics"]["valid_loss"])


@pytest.mark.parametrize(
    "size",
    [size for size in published_sizes() if size.millions is not None],
    ids=lambda size: f"{size.size}-{size.attention_type}-{size.nhead}",
)
def test_models_have_the_published_sizes(size: Any, tmp_path: Path) -> None:
    overrides = (
        f"data_folder: {tmp_path}\noutput_folder: {tmp_path}\nnhead: {size.nhead}\n"
        f"attention_type: {size.attention_type}"
    )
    with torch.device("meta"):
        model = built(HPARAMS / f"{size.size}.yaml", overrides)["model"]
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert abs(millions / size.millions - 1) < 0.005


def test_learns_more_than_the_most_frequent_code(run_recipe: RunRecipe) -> None:
    few = ["--d_model=32", "--codes=8", "--training_steps=60", "--warmup_steps=10", "--lr=0.01"]
    named = {option.split("=")[0] for option in few}
    rest = [option for option in TINY if option.split("=")[0] not in named]
    metrics = run_recipe(SMALL, *rest, *few)["metrics"]
    assert metrics["valid_accuracy"] > metrics["valid_most_frequent"] + 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size=huge"], "huge.*base"),
        (["--mask_length=6"], "mask_length=6 must be a multiple of 4"),
        (["--mask_prob=0.3"], "mask_prob=0.3"),
    ],
)
def test_bad_settings_are_told(options: list[str], message: str, run_recipe: RunRecipe) -> None:
    rest = [o for o in TINY if "d_model" not in o] if "size" in options[0] else TINY
    yaml = HPARAMS / "base.yaml" if "size" in options[0] else SMALL
    with pytest.raises(InputError, match=message):
        run_recipe(yaml, *rest, *options, "--debug")
