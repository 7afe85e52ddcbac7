"""Lines over the hidden states of encoders, drawn; and so the layer weights that probes learnt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_csv
from summarymixing_modules.errors import InputError
from summarymixing_modules.pictures import line_style, picture
from summarymixing_modules.training.run.report import RESULT


def plot_layers(
    path: Path,
    lines: Mapping[str, Sequence[float]],
    title: str,
    ylabel: str,
    reference: float,
    reference_label: str = "",
) -> None:
    """Draw one line for each encoder over its hidden states, from 0 up, into a PNG file.

    Args:
        path: of the file; replaced in one step.
        lines: label → values; the input of the first layer comes first.
        title: above the picture.
        ylabel: what the values are, with their unit.
        reference: height of a dashed line.
        reference_label: what that line is; empty leaves it out of the legend.
    """
    from matplotlib.ticker import MaxNLocator  # only here, see `picture`

    with picture(path, 7, 4) as figure:
        axes = figure.subplots()
        for index, (label, values) in enumerate(lines.items()):
            axes.plot(range(len(values)), values, label=label, **line_style(index))
        axes.axhline(reference, color="0.6", linestyle="--", linewidth=1, label=reference_label)
        axes.set(title=title, xlabel="hidden state (0: input of the first layer)", ylabel=ylabel)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


@dataclass(frozen=True)
class ProbeRun:
    """A finished run of a probe: its test's score, in percent, and the share of every state."""

    task: str
    probe: str
    encoder: str
    score: float
    shares: list[float]


def find_probes(folders: Iterable[str | os.PathLike[str]]) -> list[ProbeRun]:
    """The runs in folders and below them; of ten folds only their mean.

    Encoders are called by the folder that was given, where several were, else by their own.

    Raises:
        InputError: no folder of that name, or no run of a probe in one of them.
    """
    given = [Path(folder) for folder in folders]
    runs: list[ProbeRun] = []
    for folder in given:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder.")
        found = {path.parent: _probe_result(path) for path in sorted(folder.rglob(RESULT))}
        means = {place for place, result in found.items() if "scores" in result}
        kept = [result for place, result in found.items() if result and place.parent not in means]
        if not kept:
            raise InputError(f"{folder}: holds no result of a probe: give an output folder.")
        for result in kept:
            name = folder.name if len(given) > 1 else Path(str(result["encoder"])).name
            shares, score = [*map(float, result["layer_weights"])], float(result["score"])
            runs.append(ProbeRun(result["task"], result["probe"], name, score, shares))
    return runs


def _probe_result(path: Path) -> dict[str, Any]:
    """The content of a file if it is the result of a probe; else nothing."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    keys = {"task", "probe", "encoder", "score", "layer_weights"}
    return result if isinstance(result, dict) and keys <= set(result) else {}


def write_layer_weights(runs: Sequence[ProbeRun], folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``layers_TASK_PROBE.png`` and ``.csv`` for every task and probe; returns the pictures.

    Raises:
        InputError: two runs of one task and probe have encoders of one name.
    """
    pictures = []
    for task, probe in dict.fromkeys((run.task, run.probe) for run in runs):
        chosen = [run for run in runs if (run.task, run.probe) == (task, probe)]
        names = [run.encoder for run in chosen]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(
                f"{task}, {probe}: two runs have an encoder called {repeated[0]}: give the folder "
                "of each encoder's runs as an argument of its own."
            )
        picture = Path(folder) / f"layers_{task}_{probe}.png"
        states = range(max(len(run.shares) for run in chosen))
        head = ["encoder", "score", *(f"state_{state}" for state in states)]
        rows = ([run.encoder, run.score, *run.shares] for run in chosen)
        write_csv(picture.with_suffix(".csv"), [head, *rows])
        # Relative to a mean of all layers, so that encoders of any depth can be compared.
        lines = {
            f"{run.encoder} ({run.score:.1f} %)": [share * len(run.shares) for share in run.shares]
            for run in chosen
        }
        ylabel = "weight × number of states (1: an equal share)"
        plot_layers(picture, lines, f"{task}, {probe} probe", ylabel, reference=1.0)
        pictures.append(picture)
    return pictures
