"""One figure for every hidden state of some encoders, as a picture."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from summarymixing_modules.training.curves import COLOURS

#: Beyond colour, encoders are told apart by these.
MARKERS = "osD^vP"


@dataclass(frozen=True)
class LayerLine:
    """A line of a picture.

    Attributes:
        label: for the legend.
        values: of every hidden state; the input of the first layer comes first.
    """

    label: str
    values: Sequence[float]


def plot_layers(
    path: Path,
    lines: Sequence[LayerLine],
    title: str,
    ylabel: str,
    reference: float | None = None,
    reference_label: str | None = None,
) -> None:
    """Draw one line for each encoder over its hidden states, from 0 up.

    Args:
        path: the PNG to write; replaced in one step.
        lines: in the order of their colours.
        title: above the picture.
        ylabel: what the values are, with their unit.
        reference: height of a dashed line; None for none.
        reference_label: what that line is; None leaves it out of the legend.
    """
    # Machines that only use models may lack matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # SpeechBrain logs everything at DEBUG level, and matplotlib tells 2000 lines about fonts there.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, line in enumerate(lines):
        axes.plot(
            range(len(line.values)),
            line.values,
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            label=line.label,
        )
    if reference is not None:
        axes.axhline(
            reference, color="0.6", linestyle="--", linewidth=1, label=reference_label or ""
        )
    axes.set_title(title)
    axes.set_xlabel("hidden state (0: input of the first layer)")
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    figure.savefig(partial, dpi=120, format="png")
    os.replace(partial, path)
