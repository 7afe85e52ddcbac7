"""What recipes/README.md says about changing a recipe, done to a copy of the CTC recipe."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from summarymixing_modules.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "ASR" / "CTC"
RunRecipe = Callable[..., dict[str, Any]]

TINY = [
    "--num_encoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--d_ffn=32",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--training_steps=3",
    "--warmup_steps=1",
    "--curve_interval=1",
]


def told(kind: str) -> list[str]:
    """The blocks of code of the section on changes."""
    readme = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", readme, flags=re.MULTILINE)
    (change,) = [part for part in section if part.startswith("Change the loss")]
    return re.findall(rf"```{kind}\n(.*?)```", change, re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the recipe; its YAML file is a variant of the small one."""
    shutil.copytree(RECIPE, tmp_path / "my_recipe", ignore=shutil.ignore_patterns("results"))
    (tmp_path / "my_recipe" / "hparams" / "mine.yaml").write_text("base: small_conformer.yaml\n")
    return tmp_path / "my_recipe"


def add(file: Path, text: str) -> None:
    """Append to a YAML file."""
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_a_term_of_the_loss(copy: Path, run_recipe: RunRecipe, tmp_path: Path) -> None:
    """It is trained with, its weight is a flag, and a recipe without the key is told."""
    train, yaml = copy / "train.py", copy / "hparams" / "mine.yaml"
    term, imported = told("python")[:2]
    text = train.read_text(encoding="utf-8")
    (loss,) = re.findall(r"^ +loss = ctc_loss\(.*?\)\n", text, re.MULTILINE | re.DOTALL)
    first_import = re.search(r"^from summarymixing_modules", text, re.MULTILINE)
    assert first_import is not None
    text = text.replace(loss, loss + term)
    text = text[: first_import.start()] + imported + text[first_import.start() :]
    train.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="CTCBrain of this recipe reads entropy_weight, which"):
        run_recipe(yaml, *TINY)
    add(yaml, told("yaml")[0])

    def loss_with(weight: float) -> float:
        folder = f"--output_folder={tmp_path / str(weight)}"
        result = run_recipe(yaml, *TINY, folder, f"--entropy_weight={weight}")
        return float(result["metrics"]["test-clean_loss"])

    assert loss_with(1.0) < loss_with(0.0) - 1  # the entropy of 29 tokens nobody knows: 3.4 nats


def test_a_model_of_ones_own(
    copy: Path, run_recipe: RunRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(copy))  # where python train.py finds it
    (copy / "my_model.py").write_text(told("python")[2], encoding="utf-8")
    add(copy / "hparams" / "mine.yaml", told("yaml")[1])
    yaml, sizes = copy / "hparams" / "mine.yaml", ("--num_enc", "--d_", "--nhead", "--ker", "--cnn")
    with pytest.raises(InputError, match="Nothing reads the key"):
        run_recipe(yaml, *TINY)
    result = run_recipe(yaml, *(option for option in TINY if not option.startswith(sizes)))
    assert result["optimizer_steps"] == 3
    assert result["parameters"]["total"] == 4 * 64 * (80 + 64 + 2) + 65 * 29
