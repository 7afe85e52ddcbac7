"""The wav2vec 2.0 recipe: every YAML, sizes, temperature, collapse. Ranks: tests/reliability."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from speechbrain.nnet.schedulers import WarmCoolDecayLRSchedule

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.recipe.run_folder import ResolvedRecipe
from summarymixing_modules.training.recipe.yaml_checks import read_recipe
from summarymixing_modules.training.scores import codes
from tests.recipes.tiny import built

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "SSL" / "wav2vec2"
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
    "--cnn_channels=32",
    "--codes=8",
    "--code_dim=8",
    "--comparison_dim=8",
    "--negatives=10",
    "--num_workers=0",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--grad_accumulation_factor=1",
    "--precision=fp32",
    "--train_splits=[train-clean-100]",
    "--avoid_if_shorter_than=0.5",
    "--warmup_steps=2",
]


def tiny(*options: str) -> list[str]:
    """TINY with other values."""
    given = {option.split("=")[0] for option in options}
    return [option for option in TINY if option.split("=")[0] not in given] + list(options)


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_and_reports(hparams: Path, run_recipe: RunRecipe) -> None:
    result = run_recipe(hparams, *TINY, "--training_steps=2")
    metrics = result["metrics"]
    assert result["optimizer_steps"] == 2 and np.isfinite(metrics["valid_loss"])
    assert 0 <= metrics["valid_accuracy"] <= 100 and 100 / 11 <= metrics["valid_chance"] < 60
    assert metrics["valid_contrastive"] > 0
    assert 1 < metrics["valid_perplexity_1"] <= 8 and 1 < metrics["valid_perplexity_2"] <= 8
    waveform = "waveform" in hparams.stem
    assert result["architecture"]["frontend_type"] == ("waveform" if waveform else "mel")


@pytest.mark.parametrize("attention_type", ["RoPEMHA", "regularMHA", "hypermixing", "mamba"])
def test_other_mixers(attention_type: str, run_recipe: RunRecipe) -> None:
    result = run_recipe(SMALL, *TINY, f"--attention_type={attention_type}", "--debug")
    assert np.isfinite(result["metrics"]["valid_loss"])


@pytest.mark.parametrize(
    ("yaml", "options", "millions"),
    [
        ("base", "", 154.8),
        ("base", "attention_type: regularMHA", 165.3),
        ("base", "attention_type: regularMHA\nmatched_to: SummaryMixing", 154.8),
        ("base_80m", "", 80.0),
        ("large_329m", "", 329.0),
        ("base_waveform", "", 158.1),
        ("small", "", 2.9),
    ],
)
def test_models_have_the_published_sizes(
    yaml: str, options: str, millions: float, tmp_path: Path
) -> None:
    folders = f"data_folder: {tmp_path}\noutput_folder: {tmp_path}\n"
    with torch.device("meta"):
        model = built(HPARAMS / f"{yaml}.yaml", folders + options)["model"]
    found = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    # Widths come in steps of the heads: a matched one is within 1 %.
    assert abs(found / millions - 1) < (0.01 if "matched_to" in options else 0.005)


def test_learns_to_tell_frames_apart(run_recipe: RunRecipe) -> None:
    few = ["--d_model=32", "--training_steps=60", "--warmup_steps=10", "--lr=0.005"]
    easy = ["--mask_prob=0.4", "--mask_length=2"]  # the neighbours say nearly all
    metrics = run_recipe(SMALL, *tiny(*few, *easy))["metrics"]
    assert metrics["valid_accuracy"] > metrics["valid_chance"] + 5


def test_a_resumed_run_has_the_temperature_of_its_step(
    run_recipe: RunRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[int, float]] = []

    def note(self: Any, batch: Any, should_step: bool) -> None:
        used.append((self.optimizer_step, self.model.quantiser.temperature))

    monkeypatch.setattr(SafeBrain, "on_fit_batch_start", note)
    options = [*TINY, "--temperature_decay=0.9", "--training_steps=4"]
    run_recipe(SMALL, *options, "--optimizer_step_limit=2")
    finished = run_recipe(SMALL, *options)
    steps = [step for step, _ in used]
    assert {0, 1, 2, 3} <= set(steps) and steps == sorted(steps)
    assert all(temperature == pytest.approx(2 * 0.9**step) for step, temperature in used)
    again = run_recipe(SMALL, *options)
    assert finished["optimizer_steps"] == 4 and again["metrics"] == finished["metrics"]


def test_a_collapse_is_told(
    run_recipe: RunRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(codes, "PERPLEXITY", 100.0)  # more than any codebook of eight has
    run_recipe(SMALL, *TINY, "--training_steps=1", f"--output_folder={tmp_path}")
    log = (tmp_path / "log.txt").read_text()
    assert "perplexity_1 is" in log and "perplexity_2 is" in log and "--diversity_weight" in log


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--mask_length=1", "mask_length=1 must be at least 2"),
        ("--mask_prob=1.5", "mask_prob=1.5"),
        ("--code_dim=9", "code_dim=9 must be a multiple of codebooks=2"),
    ],
)
def test_bad_settings_are_told(option: str, message: str, run_recipe: RunRecipe) -> None:
    with pytest.raises(InputError, match=message):
        run_recipe(SMALL, *tiny(option), "--debug")


def test_the_rate_falls_at_once_after_the_warm_up_and_then_linearly() -> None:
    recipe = ResolvedRecipe(read_recipe(HPARAMS / "base.yaml"), {"data_folder": "/data"})
    schedule = WarmCoolDecayLRSchedule(**recipe.tree["lr_scheduler"])
    optimizer = torch.optim.SGD([torch.zeros(())], lr=0.0)
    rates = []
    for step in (15_000, 30_000, 30_001, 165_000, 300_001):
        schedule(optimizer, step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2.5e-4, 5e-4, 4.587e-4, 2.29e-4, 0.0], rel=2e-3, abs=1e-12)
