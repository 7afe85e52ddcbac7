"""A table as Markdown, with plots: published figures, ours, commands for what is missing."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.tables.collect import INCOMPLETE, NOT_RUN, Cell, as_json, collect
from summarymixing_modules.tables.plan import corpora_of, plan
from summarymixing_modules.tables.record import read_result
from summarymixing_modules.tables.schema import Column, Row, Table
from summarymixing_modules.text_tables import markdown, plus_minus

CELLS, REPORT, FIGURES = "cells.json", "report.md", "figures"
_MANY_COLUMNS = 10  # more do not fit beside each other


def write_cells(table: Table, results: Path) -> Path:
    """Write the cells of a table as JSON; returns the file."""
    file = results / table.name / CELLS
    cells = as_json(collect(table, results))
    write_atomically(file, json.dumps({"table": table.name, "cells": cells}, indent=2) + "\n")
    return file


def write_report(table: Table, results: Path) -> Path:
    """Write a table's ``report.md``, ``cells.json`` and plots; returns the report.

    Args:
        table: the table.
        results: folder of the results of all tables.
    """
    write_cells(table, results)
    folder = results / table.name
    cells = collect(table, results)
    parts = [
        f"# {table.title}",
        *([f"Source: {table.source}."] if table.source else []),
        *([table.about] if table.about else []),
        summary(table, cells),
        *_overview(table, cells),
        *_details(table, cells),
        *_notes(table, cells, folder),
        *_plots(table, results, folder),
        *_commands(table, cells),
    ]
    write_atomically(folder / REPORT, "\n\n".join(parts) + "\n")
    return folder / REPORT


def summary(table: Table, cells: Sequence[Cell]) -> str:
    """How many cells there are of each verdict, and what the verdicts mean."""
    counts = Counter(cell.verdict for cell in cells)
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    text = f"{len(cells)} figures: {found}."
    if any(cell.published is not None for cell in cells):
        tolerances = "; ".join(
            f"{column.head}: {column.tolerance_text}" for column in table.columns
        )
        if not _fits(table):
            tolerances = "; ".join(
                f"{unit}: {text}"
                for unit, text in dict.fromkeys((c.unit, c.tolerance_text) for c in table.columns)
            )
        text += f" Reproduced: the difference is at most … {tolerances}."
    if any(cell.interval is not None for cell in cells):
        text += (
            " ± is half of the 95 % interval over 1,000 bootstrap draws of the test utterances "
            "(Bisani and Ney, ICASSP 2004); it says nothing about other seeds."
        )
    return text


def run_command(table: Table, row: Row) -> str:
    """The command that makes a row."""
    data = " ".join(f"{name}=FOLDER" for name in corpora_of(table, row))
    data = f" --data {data}" if data else ""
    return f"summarymixing tables run {table.name} --rows {shlex.quote(row.name)}{data}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _ours(cell: Cell) -> str:
    return plus_minus(_figure(cell.ours), cell.interval)


def _overview(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """Rows down, columns across: ours, and the published figure in brackets."""
    if not _fits(table):
        return
    found = {(cell.row, cell.column): cell for cell in cells}
    filled = [cell for cell in cells if cell.ours is not None or cell.published is not None]
    shown = {cell.row for cell in filled}
    columns = [c for c in table.columns if c.name in {cell.column for cell in filled}]
    lines = [["row", *(column.head for column in columns)]]
    for name in (row.name for row in table.rows if row.name in shown):
        lines.append([name, *(_short(found.get((name, column.name))) for column in columns)])
    if shown:
        head = "Ours, and in brackets what was published:\n\n" if table.source else ""
        yield head + markdown(lines)


def _fits(table: Table) -> bool:
    """Whether the columns fit beside each other."""
    return len(table.columns) <= _MANY_COLUMNS


def _short(cell: Cell | None) -> str:
    if cell is None:
        return ""
    published = "" if cell.published is None else f" ({_figure(cell.published)})"
    mark = " (part of the test set)" if cell.verdict == INCOMPLETE else ""
    return _ours(cell) + mark + published


def _details(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """Every cell on a line, unless the overview has said it all."""
    if not any(cell.published is not None for cell in cells) and _fits(table):
        return
    columns = {column.name: column for column in table.columns}
    lines = [["row", "figure", "published", "ours", "difference", "verdict"]]
    for cell in cells:
        column = columns[cell.column]
        figures = [_figure(cell.published), _ours(cell), _difference(column, cell)]
        lines.append([cell.row, column.head, *figures, cell.verdict])
    yield f"## Every figure\n\n{markdown(lines)}"


def _difference(column: Column, cell: Cell) -> str:
    if cell.difference is None:
        return ""
    if column.relative and cell.published:
        return f"{100 * cell.difference / abs(cell.published):+.1f} %"
    return f"{cell.difference:+.2f}"


def _notes(table: Table, cells: Sequence[Cell], folder: Path) -> Iterator[str]:
    """Remarks of rows, and why figures are missing or were made otherwise."""
    lines = [f"- {row.name}: {row.note}" for row in table.rows if row.note]
    remarks = dict.fromkeys((cell.row, cell.note) for cell in cells if cell.note)
    own = {row.name: row.note for row in table.rows}
    lines += [f"- {row}: {note}" for row, note in remarks if note != own[row]]
    if lines:
        yield "## Notes\n\n" + "\n".join(lines)
    made = {cell.result: cell.provenance for cell in cells if cell.result and cell.provenance}
    if made:
        files = {Path(file).relative_to(folder).as_posix(): head for file, head in made.items()}
        yield "## Made by\n\n" + "\n".join(_made_by(*entry) for entry in files.items())


def _made_by(file: str, provenance: Any) -> str:
    processes, precision = provenance["world_size"], provenance["precision"]
    machine = f"{processes or 1} × {provenance['device_name']}"  # measurements name neither
    how = ", ".join(text for text in (machine, precision) if text)
    return f"- {file}: {provenance['date']}, commit {str(provenance['git_commit'])[:7]}, {how}"


def _plots(table: Table, results: Path, folder: Path) -> Iterator[str]:
    """Plots of the error rates over chunks and left contexts, where a run has them."""
    lines = []
    for run in plan(table, table.rows, results):
        result = read_result(run) or {}
        for test_set, entries in (result.get("streaming_matrix") or {}).items():
            # Imports the whole of training, which reports without such figures can spare.
            from summarymixing_modules.training.streaming_matrix import Cell as MatrixCell
            from summarymixing_modules.training.streaming_matrix import write_matrix

            name = f"{test_set}_{run.row.replace('/', '_')}"
            write_matrix([MatrixCell(**entry) for entry in entries], folder / FIGURES, name)
            lines.append(f"![{run.row}, {test_set}]({FIGURES}/streaming_matrix_{name}.png)")
    if lines:
        yield "## Plots\n\n" + "\n\n".join(lines)


def _commands(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """The commands of the rows that lack figures."""
    missing = {cell.row for cell in cells if cell.verdict == NOT_RUN}
    lines = [f"    {run_command(table, row)}" for row in table.rows if row.name in missing]
    if lines:
        yield "## To run\n\n" + "\n".join(lines)
