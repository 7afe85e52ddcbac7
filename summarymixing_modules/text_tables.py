"""Tables as text: columns that are aligned, or Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import zip_longest

Rows = Sequence[Sequence[str]]


def plus_minus(figure: str, interval: Sequence[float] | None) -> str:
    """A figure with half the width of its interval, such as "12.32 ± 0.81".

    Args:
        figure: as text.
        interval: low and high; None where it is not known.
    """
    return figure if interval is None else f"{figure} ± {(interval[1] - interval[0]) / 2:.2g}"


def aligned(rows: Rows, right: Collection[int] = (), separator: str = "  ") -> str:
    """Lines with columns below each other.

    Args:
        rows: cells. A row may end early; its last cell may then be longer than the column.
        right: numbers of the columns whose cells end together, instead of beginning so.
        separator: between the columns.
    """
    longest = max(map(len, rows))
    counted = [row if len(row) == longest else row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip_longest(*counted, fillvalue="")]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append(separator.join(cells).rstrip())
    return "\n".join(lines)


def markdown(rows: Rows) -> str:
    """A table of Markdown, whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
