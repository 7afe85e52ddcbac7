"""What a table is made of: corpora, stages, rows and columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from summarymixing_modules.errors import InputError

PLACEHOLDER = re.compile(r"\{([A-Za-z][\w-]*)\}")
SHARED = "shared"  # the folder of shared stages, beside those of the rows


class TableError(InputError):
    """A table's file, or what is asked of a table, cannot be; the message tells the remedy."""


@dataclass(frozen=True)
class Corpus:
    """Data, or a trained model, that a person has to have.

    Attributes:
        name: what ``--data NAME=FOLDER`` and ``{NAME}`` in flags call it.
        about: what to give.
        optional: stages that need it are left out where it is not given.
        weights: it is a model: with other weights, what is finished is another's result.
    """

    name: str
    about: str
    optional: bool = False
    weights: bool = False


@dataclass(frozen=True)
class Stage:
    """One command: a recipe with flags, or a measurement of ``summarymixing bench``.

    Attributes:
        name: of the stage within its row.
        recipe: the recipe's YAML file; None for a measurement.
        flags: key to value; ``{name}`` in a text is the folder of a corpus or of another stage.
        processes: number of processes that the batch sizes in the recipe are meant for; with
            others, batches are accumulated so that a step stays the same. 1: it is always run by
            one process. None: not known.
        bench: arguments of ``summarymixing bench``; empty for a recipe.
    """

    name: str
    recipe: Path | None
    flags: Mapping[str, Any] = field(default_factory=dict)
    processes: int | None = None
    bench: tuple[str, ...] = ()

    @property
    def placeholders(self) -> list[str]:
        """Names of the corpora and stages that it needs, each once."""
        return list(dict.fromkeys(_names_in([dict(self.flags), list(self.bench)])))


@dataclass(frozen=True)
class Column:
    """A figure of every row.

    Attributes:
        name: its head.
        metric: where it is in ``result.json``; see `figures.look_up`. ``{row}`` is the row's name.
        unit: for the head; may be empty.
        tolerance: how far from the published figure still counts as reproduced; None: not judged.
        relative: the tolerance is a share of the published figure.
        stage: whose ``result.json``; None: that of the last stage of the row.
        relative_to: a row by whose figures, ours and published, this row's are divided; None: none.
    """

    name: str
    metric: str
    unit: str = ""
    tolerance: float | None = None
    relative: bool = False
    stage: str | None = None
    relative_to: str | None = None

    @property
    def head(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def tolerance_text(self) -> str:
        """The tolerance in words."""
        if self.tolerance is None:
            return "not judged"
        return f"{100 * self.tolerance:g} %" if self.relative else f"{self.tolerance:g}"


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        name: its head, and its folder.
        stages: in order; none where a published figure is there for comparison only.
        published: column to published figure.
        note: a remark.
    """

    name: str
    stages: tuple[Stage, ...]
    published: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: what the command line calls it.
        title: one line.
        source: the publication of its figures; empty if there is none.
        about: what is to be known about it.
        corpora: data by name.
        columns: in order.
        shared: stages that several rows use.
        rows: in order.
    """

    name: str
    title: str
    source: str
    about: str
    corpora: Mapping[str, Corpus]
    columns: tuple[Column, ...]
    shared: tuple[Stage, ...]
    rows: tuple[Row, ...]

    def stages(self) -> Iterator[tuple[str, Stage]]:
        """Every stage with the name of its row, or ``shared``."""
        for stage in self.shared:
            yield SHARED, stage
        for row in self.rows:
            for stage in row.stages:
                yield row.name, stage

    def stage_of(self, column: Column, row: Row) -> Stage | None:
        """The stage whose figure a cell shows; None where the row has none."""
        if column.stage is None:
            return row.stages[-1] if row.stages else None
        found = [stage for stage in row.stages if stage.name == column.stage]
        return found[0] if found else None


def _names_in(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield from PLACEHOLDER.findall(node)
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _names_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _names_in(value)
