"""A stage against the recipe that it runs: flags that the recipe lacks, values that it needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from summarymixing_modules.tables.flags import as_arguments
from summarymixing_modules.tables.schema import Stage, TableError
from summarymixing_modules.training.recipe.options import ConfigError, read_flags
from summarymixing_modules.training.recipe.yaml_checks import RecipeFile, read_recipe, train_script

OUTPUT_FOLDER = "output_folder"


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
        source = recipe_of(stage.recipe)
        read_flags(as_arguments(stage.flags), source.tree)
    except ConfigError as error:
        raise TableError(f"{where}: {error}") from None
    if OUTPUT_FOLDER in stage.flags:
        raise TableError(f"{where}: leave {OUTPUT_FOLDER} out; the table chooses the folder.")
    for key in source.missing({OUTPUT_FOLDER, *stage.flags}):
        raise TableError(f"{where}: {stage.recipe.name} needs a value for '{key}' in flags.")
