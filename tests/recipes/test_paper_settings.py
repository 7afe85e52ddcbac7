"""Recipes that follow a paper have its settings, and their READMEs say where they do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from summarymixing_modules.training.recipe.run_folder import ResolvedRecipe
from summarymixing_modules.training.recipe.yaml_checks import read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PAPERS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("paper_settings.yaml").read_text(encoding="utf-8")
)
HEADING = "## Departs from the paper in"
FOLDERS = sorted({Path(name).parents[1] for name in PAPERS})


def resolved(name: str) -> dict[str, Any]:
    """The values of a recipe's keys."""
    source = read_recipe(RECIPES / name)
    return dict(ResolvedRecipe(source, dict.fromkeys(source.missing(()), "/data")).tree)


def departures(name: str) -> set[tuple[str, str, str, str]]:
    """Rows of the table for one recipe: key, paper, here, why."""
    settings, values = PAPERS[name], resolved(name)
    return {
        (key, text(settings[key]), text(values[key]) if key in values else "no key", why)
        for key, why in settings.get("departs", {}).items()
    }


def text(value: Any) -> str:
    """As the tables write it."""
    return "null" if value is None else str(value)


@pytest.mark.parametrize("name", PAPERS)
def test_recipe_has_the_settings_of_its_paper(name: str) -> None:
    settings, values = dict(PAPERS[name]), resolved(name)
    departs = settings.pop("departs", {})
    assert departs.keys() <= settings.keys()
    for key, paper in settings.items():
        if key not in departs:
            assert key in values and values[key] == paper, (key, paper, values.get(key))
        else:
            assert key not in values or values[key] != paper, f"{key} does not depart"


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_readme_says_where_it_departs(folder: Path) -> None:
    readme = (RECIPES / folder / "README.md").read_text(encoding="utf-8")
    assert readme.count(HEADING) == 1
    section = re.split(r"\n## ", readme.split(HEADING)[1])[0]
    table = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
        for line in section.splitlines()
        if line.startswith("|")
    ]
    names = [name for name in PAPERS if Path(name).parents[1] == folder]
    wanted = set().union(*(departures(name) for name in names))
    assert sorted(table[2:]) == sorted(wanted)


def test_headers_that_claim_a_paper_are_compared_with_it() -> None:
    """A variant follows as far as the keys of its base do."""
    for file in RECIPES.rglob("hparams/*.yaml"):
        name = file.relative_to(RECIPES).as_posix()
        header = file.read_text(encoding="utf-8").split("\n\nbase:")[0].replace("\n#", " ")
        if re.search(r"([Ss]ettings[\w ]* of|Follows) (arXiv|MP3S)", header):
            assert name in PAPERS, f"{name} says whose settings it has: add it"
