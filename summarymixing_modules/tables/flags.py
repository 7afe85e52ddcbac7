"""Flags of recipes: as data, as text for a command line, and what a recipe takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from summarymixing_modules.tables.schema import Stage, TableError
from summarymixing_modules.training.recipe.corpus_keys import with_corpus
from summarymixing_modules.training.recipe.options import FLAGS, ConfigError, read_flags
from summarymixing_modules.training.recipe.yaml_checks import (
    RecipeFile,
    read_recipe,
    train_script,
)

OUTPUT_FOLDER = "output_folder"
#: They change where and how fast a recipe runs, not what comes out.
NEUTRAL = frozenset(
    {
        "ckpt_interval_minutes",
        "ckpt_interval_steps",
        "device",
        "distributed_backend",
        "noprogressbar",
        "num_workers",
        "prep_workers",
        "trust_run",
    }
)


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags as ``--key=value``; SpeechBrain's switches as ``--key`` if they are true."""
    return [
        f"--{key}" if key in FLAGS else f"--{key}={as_text(value)}"
        for key, value in flags.items()
        if key not in FLAGS or value
    ]


def as_text(value: Any) -> str:
    """A value as a recipe's command line takes it: ``True``, ``null``, ``[1, 2]``."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)  # is YAML, too
    return str(value)


def parse_extra(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags after ``--`` on the command line of ``summarymixing tables run``.

    Raises:
        TableError: one is not ``--key=value``, or is given twice.
    """
    flags: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key or (not equals and key not in FLAGS):
            raise TableError(f"what is '{argument}' for? Flags after -- look like --key=value.")
        if key in flags:
            raise TableError(f"--{key} is given twice; keep one of them.")
        flags[key] = value if equals else True
    return flags


@cache
def recipe_of(file: Path) -> RecipeFile:
    """A recipe's YAML file, read once.

    Raises:
        ConfigError: see `read_recipe`.
    """
    return read_recipe(file)


def check_stage(stage: Stage, where: str) -> None:
    """Check a stage's recipe and flags.

    Raises:
        TableError: there is no such recipe, it has no such flag, or it lacks a value that it needs.
    """
    if stage.recipe is None:
        return
    if not train_script(stage.recipe).is_file():
        raise TableError(f"{where}: there is no recipe {train_script(stage.recipe)}.")
    try:
        source = with_corpus(recipe_of(stage.recipe), as_arguments(stage.flags))
        read_flags(as_arguments(stage.flags), source.tree)
    except ConfigError as error:
        raise TableError(f"{where}: {error}") from None
    if OUTPUT_FOLDER in stage.flags:
        raise TableError(f"{where}: leave {OUTPUT_FOLDER} out; the table chooses the folder.")
    for key in source.missing({OUTPUT_FOLDER, *stage.flags}):
        raise TableError(f"{where}: {stage.recipe.name} needs a value for '{key}' in flags.")
