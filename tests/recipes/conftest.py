"""A corpus of some dozen spoken sentences, and recipes run through their real train.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from summarymixing_modules.data.demo_corpus import make_demo_corpus

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"

RunRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny demo corpus in LibriSpeech's layout."""
    folder = tmp_path_factory.mktemp("corpus")
    make_demo_corpus(folder, 24, 4, 4, workers=1, progress=False)
    return folder


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
