"""The figures of a table as they stand: published, ours, and what to make of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.tables.commands import LOCAL, Launch, fingerprint
from summarymixing_modules.tables.figures import look_up, look_up_interval
from summarymixing_modules.tables.plan import Run, plan
from summarymixing_modules.tables.record import (
    FAILED,
    SUBMITTED,
    describe_change,
    read_record,
    read_result,
    result_file,
)
from summarymixing_modules.tables.schema import Column, Row, Stage, Table
from summarymixing_modules.training.scores.score import Interval
from summarymixing_modules.training.scores.test_sets import missing_utterances

REPRODUCED, DIFFERS, NOT_RUN = "reproduced", "differs", "not run"
OURS_ONLY, PUBLISHED_ONLY, NOT_JUDGED = "ours only", "published only", "not judged"
NO_FIGURE, INCOMPLETE = "no figure", "incomplete"
#: Beginnings of the metrics that are of test sets.
_OF_TEST_SETS = ("metrics.", "test_", "score", "streaming_matrix.")
_PROVENANCE = ("git_commit", "date", "device_name", "world_size", "precision", "command")


@dataclass(frozen=True)
class Cell:
    """A figure of a row.

    Attributes:
        row: its row.
        column: its column.
        published: the figure of the publication; None if it has none.
        ours: from ``result.json``; None if there is none yet.
        interval: 95 % of ours, low and high; None where it is not known.
        verdict: `REPRODUCED`, `DIFFERS`, `NOT_RUN`, `OURS_ONLY` (nothing to compare with),
            `PUBLISHED_ONLY` (nothing here makes it), `NOT_JUDGED` (the column has no tolerance),
            `NO_FIGURE` (the run is done, and has none) or `INCOMPLETE` (of a part of a test set).
        note: why there is no figure of ours, or how its command was not the table's.
        result: the file it is from.
        provenance: commit, date, machine and command of that file.
    """

    row: str
    column: str
    published: float | None
    ours: float | None
    verdict: str
    note: str = ""
    result: str | None = None
    provenance: Mapping[str, Any] | None = None
    interval: Interval | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the published figure."""
        if self.ours is None or self.published is None:
            return None
        return self.ours - self.published


def collect(table: Table, results: Path) -> list[Cell]:
    """Every cell of a table, row by row.

    A row has no cell in a column that neither a stage of it nor a publication fills.

    Args:
        table: the table.
        results: folder of the results of all tables.
    """
    runs = {(run.row, run.stage.name): run for run in plan(table, table.rows, results)}
    cells = []
    for row in table.rows:
        for column in table.columns:
            stage = table.stage_of(column, row)
            published = row.published.get(column.name)
            if stage is None and published is None:
                continue
            if stage is None:
                cells.append(Cell(row.name, column.name, published, None, PUBLISHED_ONLY, row.note))
            else:
                cells.append(_cell(table, runs, row, column, stage))
    return cells


def as_json(cells: list[Cell]) -> list[dict[str, Any]]:
    """Cells with their differences, for a file."""
    return [{**asdict(cell), "difference": cell.difference} for cell in cells]


def _cell(
    table: Table,
    runs: Mapping[tuple[str, str], Run],
    row: Row,
    column: Column,
    stage: Stage,
) -> Cell:
    run = runs[row.name, stage.name]
    used = [run]
    published, ours = row.published.get(column.name), _figure(run, row, column)
    note, file, interval = _why_not(run), None, None
    provenance: Mapping[str, Any] | None = None
    if (result := read_result(run)) is not None:
        head = result.get("header", result)  # of a measurement
        provenance = {key: head.get(key) for key in _PROVENANCE}
        file = str(result_file(run))
        interval = look_up_interval(result, _metric(row, column))
    if column.relative_to is not None:
        (other,) = [entry for entry in table.rows if entry.name == column.relative_to]
        other_stage = table.stage_of(column, other)
        theirs = other.published.get(column.name)
        published = None if published is None or not theirs else published / theirs
        base = None
        if other_stage is not None:
            used.append(runs[other.name, other_stage.name])
            base = _figure(used[-1], other, column)
        if ours is not None and not base:
            note = f"row '{other.name}', by which it is divided, has no figure yet"
        ours = ours / base if ours is not None and base else None
        interval = None
    verdict = judge(column, published, ours)
    if verdict == NOT_RUN and file is not None:
        verdict = NO_FIGURE
        note = note or f"{result_file(run).name} has no {column.metric}"
    if ours is not None and (missing := _missing(used, column)):
        verdict, note = INCOMPLETE, "; ".join(filter(None, (note, missing)))
    return Cell(row.name, column.name, published, ours, verdict, note, file, provenance, interval)


def _missing(runs: Sequence[Run], column: Column) -> str:
    """What the runs that make a figure lack of their test sets."""
    if not column.metric.startswith(_OF_TEST_SETS):
        return ""
    return "; ".join(filter(None, (missing_utterances(read_result(run) or {}) for run in runs)))


def _figure(run: Run, row: Row, column: Column) -> float | None:
    result = read_result(run)
    return None if result is None else look_up(result, _metric(row, column))


def _metric(row: Row, column: Column) -> str:
    return column.metric.replace("{row}", row.name)


def judge(column: Column, published: float | None, ours: float | None) -> str:
    """Whether a figure reproduces the published one, within the column's tolerance."""
    if ours is None:
        return NOT_RUN
    if published is None:
        return OURS_ONLY
    if column.tolerance is None:
        return NOT_JUDGED
    allowed = column.tolerance * abs(published) if column.relative else column.tolerance
    # Published figures are rounded: what is left of binary fractions must not decide.
    return REPRODUCED if abs(ours - published) <= allowed + 1e-9 else DIFFERS


def _why_not(run: Run) -> str:
    """Why there is no figure, or how the command that made it was not the table's."""
    record, result = read_record(run.folder), read_result(run)
    if record is None:
        return "" if result is None else "not made by this table"
    if result is None:
        if record.status == FAILED:
            return f"failed with exit status {record.exit_status}: see {run.folder}"
        return f"job {record.job}" if record.status == SUBMITTED else "begun"
    planned = fingerprint(run, Launch(LOCAL))
    compared = {key: planned[key] for key in ("recipe", "flags", "bench")}
    change = describe_change(record, compared)
    return f"other flags than the table's ({change})" if change else ""
