"""Which commands a table stands for: stages with their folders, in an order that works."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from summarymixing_modules.errors import did_you_mean
from summarymixing_modules.tables.schema import SHARED, Row, Stage, Table, TableError


@dataclass(frozen=True)
class Run:
    """A stage and where it goes.

    Attributes:
        row: name of the row, or ``shared``.
        stage: what to do.
        folder: its output folder.
        needs: the runs whose folders it reads, by stage name.
    """

    row: str
    stage: Stage
    folder: Path
    needs: dict[str, Run]

    @property
    def label(self) -> str:
        """Row and stage."""
        return f"{self.row} · {self.stage.name}"


def stage_folder(results: Path, table: Table, row: str, stage: str) -> Path:
    """Where a stage's results go."""
    return results / table.name / row / stage


def select_rows(
    table: Table, patterns: Sequence[str], given: Collection[str]
) -> tuple[list[Row], list[str]]:
    """The rows to run, with those of their stages whose data is there.

    Args:
        table: the table.
        patterns: names of rows with ``*`` and ``?``; empty for all.
        given: names of the corpora that are there.

    Returns:
        The rows, and what was left out, as sentences: stages that need an optional corpus.

    Raises:
        TableError: a pattern that matches nothing, a corpus that is missing, or a row that was
            asked for and of which nothing is left.
    """
    runnable = [row for row in table.rows if row.stages]
    chosen: list[Row] = []
    for pattern in patterns or ["*"]:
        found = [row for row in runnable if fnmatch.fnmatchcase(row.name, pattern)]
        if not found:
            names = [row.name for row in runnable]
            raise TableError(
                f"no row of {table.name} matches {pattern!r}.{did_you_mean(pattern, names)} "
                f"`summarymixing tables show {table.name}` lists them."
            )
        chosen += [row for row in found if row not in chosen]
    left_out: Counter[str] = Counter()
    kept = []
    for row in chosen:
        stages = [stage for stage in row.stages if not _lacks(table, row, stage, given, left_out)]
        if stages:
            kept.append(replace(row, stages=tuple(stages)))
        elif patterns:
            raise TableError(_demand(table, row, given))
    notes = [
        f"Left out, for want of --data {name}=FOLDER: {count} stage(s)"
        for name, count in left_out.items()
    ]
    return kept, notes


def _lacks(
    table: Table, row: Row, stage: Stage, given: Collection[str], left_out: Counter[str]
) -> bool:
    """Whether a stage cannot be run for want of an optional corpus, which is counted."""
    missing = [name for name in corpora_of(table, row, [stage]) if name not in given]
    if any(not table.corpora[name].optional for name in missing):
        raise TableError(_demand(table, row, given))
    left_out.update(missing[:1])
    return bool(missing)


def _demand(table: Table, row: Row, given: Collection[str]) -> str:
    missing = [name for name in corpora_of(table, row) if name not in given]
    wanted = "; ".join(f"--data {name}=FOLDER: {table.corpora[name].about}" for name in missing)
    return f"row '{row.name}' needs {wanted}"


def corpora_of(table: Table, row: Row, stages: Sequence[Stage] | None = None) -> list[str]:
    """Names of the corpora that a row, or some of its stages, need, directly or through others."""
    found: dict[str, None] = {}
    others = {stage.name: stage for stage in (*table.shared, *row.stages)}
    waiting = list(row.stages if stages is None else stages)
    while waiting:
        for name in waiting.pop(0).placeholders:
            if name in table.corpora:
                found[name] = None
            elif name in others:
                waiting.append(others.pop(name))
    return list(found)


def plan(table: Table, rows: Sequence[Row], results: Path) -> list[Run]:
    """The runs of these rows and of the shared stages that they need, what is needed first.

    Args:
        table: the table.
        rows: of it.
        results: folder of the results of all tables.
    """
    runs: list[Run] = []
    shared: dict[str, Run] = {}
    templates = {stage.name: stage for stage in table.shared}

    def make(row: str, stage: Stage, before: dict[str, Run]) -> Run:
        needs = {}
        for name in stage.placeholders:
            if name in before:
                needs[name] = before[name]
            elif name in templates:
                if name not in shared:
                    shared[name] = make(SHARED, templates[name], {})
                needs[name] = shared[name]
        run = Run(row, stage, stage_folder(results, table, row, stage.name), needs)
        runs.append(run)
        return run

    for row in rows:
        own: dict[str, Run] = {}
        for stage in row.stages:
            own[stage.name] = make(row.name, stage, own)
    return runs
