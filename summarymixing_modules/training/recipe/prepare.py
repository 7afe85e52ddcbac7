"""``summarymixing prepare``: the corpus of a recipe, before a training takes any GPU."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from summarymixing_modules.training.recipe.corpus_keys import with_corpus
from summarymixing_modules.training.recipe.options import ConfigError, overrides_in, read_flags
from summarymixing_modules.training.recipe.run_folder import ResolvedRecipe
from summarymixing_modules.training.recipe.values import checked_flags
from summarymixing_modules.training.recipe.yaml_checks import (
    read_recipe,
    tag_of,
    train_script,
)
from summarymixing_modules.training.run.run_lock import hold

_NOT_GIVEN = "not-given"  # stands for the values that only the training needs


class PlainValues(dict[str, Any]):
    """The keys of a recipe that are no objects: what its data are made of.

    Raises:
        ConfigError: for a key that is missing; names the flag.
    """

    def __missing__(self, key: str) -> Any:
        raise ConfigError(f"--{key} has no value; write --{key}=VALUE.")


def prepare_data(file: Path, flags: Sequence[str]) -> Path:
    """Prepares what a recipe trains and tests on, in one process; builds no model.

    What is done already is kept. A training with the same flags finds all of it, and starts.

    Args:
        file: the recipe's YAML file.
        flags: as after the YAML file on train.py's command line.

    Returns:
        where manifests and tokenizers are.

    Raises:
        InputError: see `data_settings`, or what train.py would refuse, too.
    """
    train, hparams = data_settings(file, flags)
    lock = hold(Path(hparams["output_folder"]))
    train.load_data(hparams)
    if lock is not None:
        lock.release()
    return Path(hparams["save_folder"]).absolute()


def data_settings(
    file: Path, flags: Sequence[str], defaults: Mapping[str, str] | None = None
) -> tuple[ModuleType, PlainValues]:
    """The train.py of a recipe, and what it makes its data of.

    Args:
        file: the recipe's YAML file.
        flags: as after the YAML file on train.py's command line.
        defaults: values of keys that need one, where no flag gives it.

    Raises:
        InputError: flags that train.py would refuse, too, or a recipe that prepares nothing.
    """
    train = import_train(file)
    if not hasattr(train, "load_data"):
        raise ConfigError(
            f"{train.__file__} has no function load_data: this recipe has no corpus to prepare, or "
            "prepares it while it trains."
        )
    source = with_corpus(read_recipe(file), flags)
    given = overrides_in(checked_flags(read_flags(flags, source.tree), source))
    missing = dict.fromkeys(source.missing(given), _NOT_GIVEN)
    recipe = ResolvedRecipe(source, {**missing, **(defaults or {}), **given})
    plain = {key: json.dumps(value) for key, value in recipe.tree.items() if not tag_of(value)}
    return train, PlainValues(
        {k: json.loads(text) for k, text in plain.items() if _NOT_GIVEN not in text}
    )


def run_prepare(recipe: str, flags: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(f"Prepared: {prepare_data(Path(recipe), flags)}. Train with the same flags.")
    return 0


def import_train(file: Path) -> ModuleType:
    """The train.py of a recipe: beside the folder of its YAML files.

    Raises:
        ConfigError: there is none.
    """
    script = train_script(file)
    if not script.is_file():
        raise ConfigError(f"{file} is no YAML file of a recipe: there is no {script}.")
    spec = importlib.util.spec_from_file_location(f"train_{script.parent.name}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
