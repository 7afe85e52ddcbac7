"""The curves of a training run as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from summarymixing_modules.pictures import COLOURS, picture
from summarymixing_modules.training.run.history import TrainHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENT = ("WER", "CER", "SER", "EER", "ACC", "ACCURACY", "MOST_FREQUENT", "CHANCE")


def plot_curves(history: TrainHistory, file: Path, title: str) -> None:
    """Draw loss, validation metrics, learning rate and gradient norm over the optimizer steps.

    Args:
        history: what to draw; a panel without data says so.
        file: the PNG to write; replaced in one step.
        title: above the panels.
    """
    with picture(file, 11, 7) as figure:
        figure.suptitle(title)
        (loss, metric), (rate, norm) = figure.subplots(2, 2)
        steps = history.curves["step"]
        _line(loss, steps, history.curves["loss"], "train loss", COLOURS[0])
        _epochs(loss, history, "train", ["loss"], COLOURS[2:])
        _epochs(loss, history, "valid", ["loss"], COLOURS[1:])
        loss.set_ylabel("loss")
        names = _metric_names(history)
        _epochs(metric, history, "valid", names, COLOURS)
        labels = [f"{name} (%)" if name.upper() in PERCENT else name for name in names]
        metric.set_ylabel(", ".join(labels) if len(labels) <= 3 else "validation metrics")
        _line(rate, steps, history.curves["lr"], None, COLOURS[0])
        rate.set_ylabel("learning rate")
        _line(norm, steps, history.curves["grad_norm"], None, COLOURS[0])
        norm.set_ylabel("gradient norm before clipping")
        if any(value > 0 for value in history.curves["grad_norm"]):
            norm.set_yscale("log")
        for axes in (loss, metric, rate, norm):
            _finish(axes)


def _metric_names(history: TrainHistory) -> list[str]:
    """Names of what the validations measured besides the loss, in the order they appeared."""
    names = [name for epoch in history.epochs for name in epoch["valid"] if name != "loss"]
    return list(dict.fromkeys(names))


def _line(
    axes: Axes, steps: Sequence[float], values: Sequence[float], label: str | None, colour: str
) -> None:
    if any(math.isfinite(value) for value in values):
        marker = "." if len(values) < 30 else ""
        axes.plot(steps, values, color=colour, linewidth=1.2, marker=marker, label=label)


def _epochs(
    axes: Axes, history: TrainHistory, part: str, names: Sequence[str], colours: Sequence[str]
) -> None:
    """Draw what the ends of epochs reported about "train" or "valid", a marker per epoch."""
    for index, name in enumerate(names):
        points = [(e["step"], e[part][name]) for e in history.epochs if name in e[part]]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            colour = colours[index % len(colours)]
            unit = " (%)" if name.upper() in PERCENT else ""
            label = f"train {name}, epoch mean" if part == "train" else f"validation {name}{unit}"
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", ms=4, label=label)


def _finish(axes: Axes) -> None:
    axes.set_xlabel("optimizer steps")
    axes.grid(alpha=0.3)
    if not axes.lines:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
