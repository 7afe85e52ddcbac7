"""A folder imports only from folders below it: there is no circle, not even by lazy imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "summarymixing_modules"
FOLDER = Path(__file__).resolve().parents[2] / PACKAGE
#: From the lowest to the highest. What is not named itself counts to the folder that it lies in.
ORDER = (
    *("_version", "errors", "repository", "compat", "text_tables"),
    *("data", "pictures"),
    *("ops", "mixers", "encoders", "models", "streaming"),
    # What a run leaves behind, and how a recipe is read: bundles are made of both.
    *("training.scores", "training.run", "training.recipe"),
    "bundles",
    "training",  # Brains, which may start from bundles
    *("probing", "inference", "conversion", "bench", "tables"),
    *("demo", "cli"),
)
#: (file, module): why it may be imported all the same.
ALLOWED: dict[tuple[str, str], str] = {
    ("training/run/report.py", "training.brain"): "for the checker of types only",
}


def place(name: str) -> str:
    """The longest entry of ORDER that a dotted name, without the package, lies in."""
    found = [entry for entry in ORDER if f"{name}.".startswith(f"{entry}.")]
    assert found, f"{name} has no place in ORDER of {Path(__file__).name}: give it one"
    return max(found, key=len)


def imports(file: Path) -> Iterator[str]:
    """What a file imports of the package, wherever in it, without the package's name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports of this package name it"
            module = str(node.module)
            # `from package import part` may name a module or something in it.
            names = [f"{module}.{a.name}" for a in node.names] if module == PACKAGE else [module]
        yield from (n.removeprefix(f"{PACKAGE}.") for n in names if n.startswith(f"{PACKAGE}."))


FILES = sorted(file for file in FOLDER.rglob("*.py") if file != FOLDER / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_imports_lead_down(file: Path) -> None:
    here = file.relative_to(FOLDER)
    own = place(".".join(here.with_suffix("").parts).removesuffix(".__init__"))
    upwards = [
        name
        for name in imports(file)
        if ORDER.index(place(name)) > ORDER.index(own) and (str(here), name) not in ALLOWED
    ]
    assert not upwards, f"{here} is in {own} and imports from above: {', '.join(upwards)}"
