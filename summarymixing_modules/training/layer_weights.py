"""The layer weights that probes have learnt, as pictures and tables: what the layers hold."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.layer_plots import LayerLine, plot_layers
from summarymixing_modules.training.report import RESULT


@dataclass(frozen=True)
class ProbeRun:
    """A finished run of a probe.

    Attributes:
        task: its name.
        probe: its head.
        encoder: a short name for the encoder.
        score: of the test, in percent.
        shares: of every hidden state; the input of the first layer comes first.
    """

    task: str
    probe: str
    encoder: str
    score: float
    shares: tuple[float, ...]


def find_probes(folders: Iterable[str | os.PathLike[str]]) -> list[ProbeRun]:
    """The runs in folders and below them; of ten folds only their mean.

    Encoders are called by the folder that was given, where several were, else by their own.

    Raises:
        InputError: no folder of that name, or no run of a probe in one of them.
    """
    runs: list[ProbeRun] = []
    given = [Path(folder) for folder in folders]
    for folder in given:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder.")
        found = [
            (path.parent, result)
            for path in sorted(folder.rglob(RESULT))
            if (result := _probe_result(path)) is not None
        ]
        means = {place for place, result in found if "scores" in result}
        kept = [(place, result) for place, result in found if place.parent not in means]
        if not kept:
            raise InputError(f"{folder}: holds no result of a probe: give an output folder.")
        for _, result in kept:
            name = folder.name if len(given) > 1 else Path(str(result["encoder"])).name
            shares = tuple(float(share) for share in result["layer_weights"])
            runs.append(
                ProbeRun(result["task"], result["probe"], name, float(result["score"]), shares)
            )
    return runs


def _probe_result(path: Path) -> dict[str, Any] | None:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = {"task", "probe", "encoder", "score", "layer_weights"}
    return result if isinstance(result, dict) and keys <= set(result) else None


def write_layer_weights(runs: Sequence[ProbeRun], folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``layers_TASK_PROBE.png`` and ``.csv`` for every task and probe.

    Args:
        runs: of one or more encoders.
        folder: where to write.

    Returns:
        the pictures.

    Raises:
        InputError: two runs of one task and probe have encoders of one name.
    """
    pictures = []
    for task, probe in dict.fromkeys((run.task, run.probe) for run in runs):
        chosen = [run for run in runs if (run.task, run.probe) == (task, probe)]
        names = [run.encoder for run in chosen]
        if len(set(names)) < len(names):
            raise InputError(
                f"{task}, {probe}: two runs have an encoder called {names[0]}: give the folder of "
                "each encoder's runs as an argument of its own."
            )
        path = Path(folder) / f"layers_{task}_{probe}.csv"
        _write_csv(path, chosen)
        _plot(path.with_suffix(".png"), f"{task}, {probe} probe", chosen)
        pictures.append(path.with_suffix(".png"))
    return pictures


def _write_csv(path: Path, runs: Sequence[ProbeRun]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    layers = max(len(run.shares) for run in runs)
    writer.writerow(["encoder", "score", *(f"state_{index}" for index in range(layers))])
    for run in runs:
        writer.writerow([run.encoder, run.score, *run.shares])
    write_atomically(path, text.getvalue())


def _plot(path: Path, title: str, runs: Sequence[ProbeRun]) -> None:
    # Relative to a mean of all layers, so that encoders of any depth can be compared.
    lines = [
        LayerLine(
            f"{run.encoder} ({run.score:.1f} %)", [share * len(run.shares) for share in run.shares]
        )
        for run in runs
    ]
    plot_layers(path, lines, title, "weight × number of states (1: an equal share)", reference=1.0)
