"""From a table's YAML file to a checked `Table`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from summarymixing_modules.errors import did_you_mean
from summarymixing_modules.repository import REPOSITORY
from summarymixing_modules.tables.expand import expand
from summarymixing_modules.tables.flags import check_stage
from summarymixing_modules.tables.schema import (
    SHARED,
    Column,
    Corpus,
    Row,
    Stage,
    Table,
    TableError,
)

RECIPES = REPOSITORY / "recipes"
DEFINITIONS = Path(__file__).with_name("definitions")

_ROW_NAME = re.compile(r"[\w.+=-]+(/[\w.+=-]+)*")  # becomes a folder
_NAME = re.compile(r"[A-Za-z][\w-]*")  # becomes a folder or a placeholder
_PERCENT = re.compile(r"([\d.]+) ?%")


def table_names() -> list[str]:
    """The tables that come with the package."""
    return sorted(file.stem for file in DEFINITIONS.glob("*.yaml"))


def load_table(name: str) -> Table:
    """Read and check a table.

    Args:
        name: one of `table_names`, or the path of a YAML file of one's own.

    Raises:
        TableError: there is no such table, the recipes are not beside the package, or the file is
            wrong: a key or a figure that means nothing, a recipe that is not there, a flag that
            the recipe does not have, a stage that nothing makes. Names file, row and remedy.
    """
    if not RECIPES.is_dir():
        raise TableError(
            f"tables run the recipes in {RECIPES}, which is not there: clone the repository and "
            "install it with `pip install -e .`"
        )
    file = _find(name)
    try:
        tree = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise TableError(f"{file} is not valid YAML: {error}") from None
    table = _table(file, tree)
    for row, stage in table.stages():
        check_stage(stage, f"{file.name}, {row}, stage '{stage.name}'")
    return table


def _find(name: str) -> Path:
    if name in table_names():
        return DEFINITIONS / f"{name}.yaml"
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path.resolve()
    known = table_names()
    raise TableError(
        f"there is no table {name!r} but {', '.join(known)}.{did_you_mean(name, known)} A table of "
        "your own is given as the path of a .yaml file."
    )


def _table(file: Path, tree: Any) -> Table:
    where = file.name
    keys = _keys(tree, where, ("title", "columns", "rows"), ("source", "about", "data", "shared"))
    corpora = {
        name: _corpus(name, content, f"{where}, data '{name}'")
        for name, content in _mapping(keys.get("data", {}), f"{where}, data").items()
    }
    shared = _stages(file, keys.get("shared", {}), corpora, (), f"{where}, shared")
    columns = tuple(
        _column(name, content, f"{where}, column '{name}'")
        for name, content in expand(_mapping(keys["columns"], where), f"{where}, columns").items()
    )
    rows = tuple(
        _row(file, name, content, columns, corpora, shared)
        for name, content in expand(_mapping(keys["rows"], where), f"{where}, rows").items()
    )
    _check_relations(columns, rows, where)
    title, source, about = (str(keys.get(key, "")).strip() for key in ("title", "source", "about"))
    return Table(file.stem, title, source, about, corpora, columns, tuple(shared), rows)


def _corpus(name: str, content: Any, where: str) -> Corpus:
    keys = _keys(content, where, ("about",), ("optional", "weights"))
    optional, weights = (bool(keys.get(key, False)) for key in ("optional", "weights"))
    return Corpus(name, str(keys["about"]), optional, weights)


def _column(name: str, content: Any, where: str) -> Column:
    keys = _keys(content, where, ("metric", "tolerance"), ("unit", "stage", "relative_to"))
    tolerance, relative = _tolerance(keys["tolerance"], where)
    return Column(
        name,
        str(keys["metric"]),
        str(keys.get("unit", "")),
        tolerance,
        relative,
        keys.get("stage"),
        keys.get("relative_to"),
    )


def _tolerance(given: Any, where: str) -> tuple[float | None, bool]:
    if given is None:
        return None, False
    if isinstance(given, str) and (percent := _PERCENT.fullmatch(given)):
        return float(percent[1]) / 100, True
    if isinstance(given, int | float) and not isinstance(given, bool) and given >= 0:
        return float(given), False
    raise TableError(
        f"{where}: the tolerance is {given!r}: give a number (0.2), a share ('10 %'), or null for "
        "figures that are not judged."
    )


def _row(
    file: Path,
    name: str,
    content: Any,
    columns: Collection[Column],
    corpora: Mapping[str, Corpus],
    shared: Collection[Stage],
) -> Row:
    where = f"{file.name}, row '{name}'"
    if not _ROW_NAME.fullmatch(name) or name.split("/")[0] == SHARED or ".." in name:
        raise TableError(
            f"{where}: a row's name becomes a folder: letters, digits and . _ + = - with / between "
            f"them, and not {SHARED}/."
        )
    keys = _keys(content, where, (), ("stages", "published", "note"))
    stages = _stages(file, keys.get("stages", {}), corpora, shared, where)
    published = _published(keys.get("published", {}), [column.name for column in columns], where)
    if not stages and not published:
        raise TableError(f"{where} has neither stages nor published figures: it says nothing.")
    return Row(name, tuple(stages), published, str(keys.get("note", "")))


def _published(given: Any, columns: list[str], where: str) -> dict[str, float]:
    """Figures by column, or as a list in the order of the columns with null for none."""
    if isinstance(given, list):
        if len(given) != len(columns):
            raise TableError(
                f"{where}: {len(given)} published figures for {len(columns)} columns; write null "
                "where there is none, or give them by column."
            )
        given = dict(zip(columns, given, strict=True))
    figures = _mapping(given, where)
    for column, figure in figures.items():
        if column not in columns:
            hint = did_you_mean(column, columns)
            raise TableError(f"{where}: there is no column '{column}'.{hint}")
        if figure is not None and (isinstance(figure, bool) or not isinstance(figure, int | float)):
            raise TableError(f"{where}: '{figure}' is no figure ({column}).")
    return {column: float(figure) for column, figure in figures.items() if figure is not None}


def _stages(
    file: Path,
    content: Any,
    corpora: Mapping[str, Corpus],
    shared: Collection[Stage],
    where: str,
) -> list[Stage]:
    stages = [
        _stage(file, name, inside, f"{where}, stage '{name}'")
        for name, inside in _mapping(content, where).items()
    ]
    return _in_order(stages, corpora, shared, where)


def _stage(file: Path, name: str, content: Any, where: str) -> Stage:
    if not _NAME.fullmatch(name):
        raise TableError(f"{where}: a stage's name becomes a folder: letters, digits, _ and -.")
    keys = _keys(content, where, (), ("recipe", "flags", "processes", "bench"))
    if ("recipe" in keys) == ("bench" in keys):
        raise TableError(f"{where} needs either a recipe (its YAML file) or bench (arguments).")
    if "bench" in keys:
        if set(keys) != {"bench"} or not isinstance(keys["bench"], list):
            raise TableError(f"{where}: bench is a list of arguments, and stands alone.")
        return Stage(name, None, bench=tuple(str(argument) for argument in keys["bench"]))
    processes = keys.get("processes")
    if processes is not None and (not isinstance(processes, int) or processes < 1):
        raise TableError(f"{where}: processes is {processes!r}: give a number of 1 or more.")
    beside_table = str(keys["recipe"]).startswith("./")
    recipe = (file.parent if beside_table else RECIPES) / str(keys["recipe"])
    return Stage(name, recipe, _mapping(keys.get("flags", {}), where), processes)


def _in_order(
    stages: Sequence[Stage], corpora: Mapping[str, Corpus], shared: Collection[Stage], where: str
) -> list[Stage]:
    """The stages, each after those that it refers to, else as they stand in the file."""
    known = [*corpora, *(stage.name for stage in shared)]
    own = [stage.name for stage in stages]
    for stage in stages:
        if stage.name in known:
            raise TableError(
                f"{where}: '{stage.name}' is a corpus or shared stage, too; rename it."
            )
        for name in stage.placeholders:
            if name not in (*known, *own):
                raise TableError(
                    f"{where}, stage '{stage.name}' refers to {{{name}}}, which is neither under "
                    f"data nor a stage.{did_you_mean(name, [*known, *own])}"
                )
    ordered: list[Stage] = []
    waiting = list(stages)
    while waiting:
        there = {*known, *(stage.name for stage in ordered)}
        ready = [stage for stage in waiting if there.issuperset(stage.placeholders)]
        if not ready:
            names = ", ".join(stage.name for stage in waiting)
            raise TableError(f"{where}: the stages {names} wait for each other.")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _check_relations(columns: Collection[Column], rows: Collection[Row], where: str) -> None:
    """Check that the rows and stages that columns name are there."""
    names = {row.name for row in rows}
    stages = {stage.name for row in rows for stage in row.stages}
    for column in columns:
        if column.relative_to is not None and column.relative_to not in names:
            hint = did_you_mean(column.relative_to, names)
            raise TableError(
                f"{where}, column '{column.name}': there is no row '{column.relative_to}'.{hint}"
            )
        if column.stage is not None and column.stage not in stages:
            hint = did_you_mean(column.stage, stages)
            raise TableError(
                f"{where}, column '{column.name}': no row has a stage '{column.stage}'.{hint}"
            )


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise TableError(f"{where}: there should be `name: value` lines here, not {content!r}.")
    return content


def _keys(
    content: Any, where: str, needed: Collection[str], optional: Collection[str]
) -> dict[str, Any]:
    """The content as a mapping with these keys and no others."""
    found = _mapping(content, where)
    for key in found:
        if key not in (*needed, *optional):
            hint = did_you_mean(key, [*needed, *optional])
            raise TableError(f"{where}: there is no such key '{key}'.{hint}")
    for key in needed:
        if key not in found:
            raise TableError(f"{where} needs the key '{key}'.")
    return found
