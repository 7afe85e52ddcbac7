"""Time, memory and real-time factor against length, as Figure 2 of arXiv 2307.07421."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarymixing_modules.bench.memory import GIB, MIB
from summarymixing_modules.bench.report import crossover, crossover_text, crossovers
from summarymixing_modules.bench.rows import OK, OOM, SKIPPED, Row
from summarymixing_modules.bench.setup import REFERENCE, Setup
from summarymixing_modules.pictures import line_style, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RING = f"cheaper than {REFERENCE} from here on"


def plot(rows: Sequence[Row], setup: Setup, device: str, file: Path) -> None:
    """Draws the rows of one batch size and kind of pass.

    Crossovers with the reference are ringed in the panel of times and named in the legend; a cross
    at the end of a line means that the next length needs more memory than there is.

    Args:
        rows: what to draw.
        setup: of the bench.
        device: name of the machine, for the title.
        file: the PNG to write; replaced in one step.
    """
    unit, name = (GIB, "GiB") if max(row.peak_bytes or 0 for row in rows) >= GIB else (MIB, "MiB")
    forms = list(dict.fromkeys(row.form for row in rows if row.status == OK))
    height = 5.6 + 0.22 * max(0, len(forms) - 6)
    with picture(file, 14, height) as figure:
        time, memory, factor = figure.subplots(1, 3)
        for index, form in enumerate(forms):
            style = {**line_style(index), "markersize": 4}
            label = form
            if form in crossovers(rows):
                label += f" (cheaper than {REFERENCE}: {crossover_text(rows, form)})"
            mine = sorted((r for r in rows if r.form == form), key=lambda row: row.seconds)
            _line(time, mine, lambda row: row.median, style, label)
            _line(memory, mine, lambda row: (row.peak_bytes or 0) / unit, style, label)
            _line(factor, mine, lambda row: row.real_time_factor, style, label)
            _spread(time, mine, str(style["color"]))
            _ring(time, rows, mine)
        time.set_ylabel(f"seconds for a batch of {rows[0].batch}, median and quartiles")
        memory.set_ylabel(f"peak memory ({name})")
        factor.set_ylabel("real-time factor (s of computing / s of audio)")
        for axes in (time, memory, factor):
            axes.set_xlabel("length of the utterances (s)")
            axes.set_xticks(sorted({row.seconds for row in rows}))
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        if all(row.peak_bytes is None for row in rows):
            memory.text(0.5, 0.5, "not told", ha="center", va="center", transform=memory.transAxes)
        if any(line.get_label() == RING for line in time.lines):
            time.legend(handles=[next(one for one in time.lines if one.get_label() == RING)])
        handles, labels = time.get_legend_handles_labels()
        named = [pair for pair in zip(handles, labels, strict=True) if pair[1] != RING]
        handles, labels = [pair[0] for pair in named], [pair[1] for pair in named]
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9
        )
        figure.suptitle(_title(rows[0], setup, device))


def _line(
    axes: Axes,
    rows: Sequence[Row],
    value: Callable[[Row], float],
    style: dict[str, Any],
    label: str,
) -> None:
    """A mixer's line, and a cross where memory ended it."""
    timed = [row for row in rows if row.status == OK]
    axes.plot([r.seconds for r in timed], [value(r) for r in timed], label=label, **style)
    if timed and any(row.status in (OOM, SKIPPED) for row in rows):
        axes.plot(timed[-1].seconds, value(timed[-1]), "x", color=style["color"], ms=11, mew=2)


def _spread(axes: Axes, rows: Sequence[Row], colour: str) -> None:
    timed = [row for row in rows if row.status == OK]
    quartiles = [row.as_dict()["quartiles_s"] for row in timed]
    low, high = zip(*quartiles, strict=True)
    axes.fill_between([r.seconds for r in timed], low, high, color=colour, alpha=0.15, linewidth=0)


def _ring(axes: Axes, rows: Sequence[Row], mine: Sequence[Row]) -> None:
    """Rings the point of a mixer's line from which it is cheaper than the reference."""
    found = crossover(rows, mine[0].form)
    timed = [row for row in mine if row.status == OK]
    if found is None or found <= timed[0].seconds:
        return
    after = next(index for index, row in enumerate(timed) if row.seconds >= found)
    before, behind = timed[after - 1], timed[after]
    share = (found - before.seconds) / (behind.seconds - before.seconds)
    height = before.median + share * (behind.median - before.median)
    axes.plot(found, height, "o", ms=14, mfc="none", mec="black", mew=1.2, label=RING)


def _title(row: Row, setup: Setup, device: str) -> str:
    what = {"mixers": "mixers alone", "encoders": "encoders", "steps": "training steps"}[setup.what]
    parts = [
        what if setup.what == "mixers" else f"{setup.encoder}: {what}",
        f"{row.passes}, batch {row.batch}, {setup.precision}",
        "equal parameters" if setup.matched else f"D = {setup.d_model}",
        *(["compiled"] if setup.compiled else []),
        *([f"{row.padding:.0%} padding"] if row.padding else []),
        device,
    ]
    return ", ".join(parts)
