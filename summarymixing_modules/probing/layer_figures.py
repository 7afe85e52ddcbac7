"""What is found about the hidden states of encoders: as JSON and CSV, and drawn.

Layer probes write ``layer_probes.json``, all that was ever finished in a folder, and
``layer_probes_TASK.png`` and ``.csv``, the encoders that were asked for last. The layer weights of
the probes of train.py are read from their results: ``layers_TASK_PROBE.png`` and ``.csv``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from summarymixing_modules.data.files import write_atomically, write_csv
from summarymixing_modules.errors import InputError
from summarymixing_modules.pictures import line_style, picture
from summarymixing_modules.training.run.report import RESULT

RESULTS = "layer_probes.json"
#: Column of a task's figures, what they are, its title, what chance is, and which figure is best.
_WORDS = {
    "speaker": (
        "accuracy",
        "accuracy on utterances held out (%)",
        "Speaker: logistic regression on the mean over time",
        "most frequent speaker",
        max,
    ),
    "content": (
        "cer",
        "character error rate, test-clean (%)",
        "Content: one linear CTC layer, greedy",
        "nothing recognised",
        min,
    ),
    "emotion": (
        "accuracy",
        "accuracy, mean of ten folds (%)",
        "Emotion: logistic regression on the mean over time",
        "most frequent emotion",
        max,
    ),
}


class LayerProbe(NamedTuple):
    """The probes of one task on all hidden states of one encoder: an entry of the JSON file.

    Figures are in percent, that of the input of the first layer first, and depend on the encoder's
    weights (``FrozenEncoder.digest``) and the settings; chance is reached without the encoder.
    """

    encoder: str
    path: str
    encoder_digest: str
    task: str
    settings: Mapping[str, Any]
    figures: Sequence[float]
    chance: float
    details: Mapping[str, Any]


def read_results(folder: Path) -> list[LayerProbe]:
    """What earlier calls have finished in a folder.

    Raises:
        InputError: its file of results is damaged.
    """
    path = folder / RESULTS
    try:
        return [LayerProbe(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} does not hold results of layer probes ({error}): move it away, or give "
            "another --output_folder."
        ) from error


def write_results(
    folder: Path, results: Sequence[LayerProbe], shown: Sequence[LayerProbe]
) -> list[Path]:
    """Write all results as JSON, and those shown as a picture and a table for each task.

    Returns:
        the files.
    """
    text = json.dumps([result._asdict() for result in results], indent=2, allow_nan=False)
    write_atomically(folder / RESULTS, text + "\n")
    files = [folder / RESULTS]
    for task in dict.fromkeys(probe.task for probe in shown):
        column, label, title, reference, best_of = _WORDS[task]
        rows: list[Sequence[Any]] = [("encoder", "layer", column, "chance")]
        lines: dict[str, Sequence[float]] = {}
        for encoder, *_, figures, chance, _ in (probe for probe in shown if probe.task == task):
            rows += [(encoder, state, figure, chance) for state, figure in enumerate(figures)]
            best: float = best_of(figures)
            lines[f"{encoder} ({best:.1f} % at state {figures.index(best)})"] = figures
        path = folder / f"layer_probes_{task}.png"
        write_csv(path.with_suffix(".csv"), rows)
        # Chance is that of the data, so the same for all encoders.
        _plot(path, lines, title, label, chance, f"{reference} ({chance:.1f} %)")
        files += [path, path.with_suffix(".csv")]
    return files


def _plot(
    path: Path,
    lines: Mapping[str, Sequence[float]],
    title: str,
    ylabel: str,
    reference: float,
    reference_label: str = "",
) -> None:
    """Draw one line for each encoder over its hidden states, from 0 up, and a dashed reference."""
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


def find_probes(folders: Iterable[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """The results of probes in folders and below them; of ten folds only their mean.

    Encoders are called by the folder that was given, where several were, else by their own.

    Raises:
        InputError: no folder of that name, or no run of a probe in one of them.
    """
    given = [Path(folder) for folder in folders]
    runs: list[dict[str, Any]] = []
    for folder in given:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder.")
        found = {path.parent: _probe_result(path) for path in sorted(folder.rglob(RESULT))}
        means = {place for place, result in found.items() if "scores" in result}
        kept = [result for place, result in found.items() if result and place.parent not in means]
        if not kept:
            raise InputError(f"{folder}: holds no result of a probe: give an output folder.")
        for result in kept:
            name = folder.name if len(given) > 1 else Path(result["encoder"]).name
            runs.append(result | {"encoder": name})
    return runs


def _probe_result(path: Path) -> dict[str, Any]:
    """The content of a file if it is the result of a probe; else nothing."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    keys = {"task", "probe", "encoder", "score", "layer_weights"}
    return result if isinstance(result, dict) and keys <= set(result) else {}


def write_layer_weights(
    runs: Sequence[Mapping[str, Any]], folder: str | os.PathLike[str]
) -> list[Path]:
    """Write ``layers_TASK_PROBE.png`` and ``.csv`` for every task and probe; returns the pictures.

    Args:
        runs: of `find_probes`.
        folder: where to.

    Raises:
        InputError: two runs of one task and probe have encoders of one name.
    """
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        group = groups.setdefault((run["task"], run["probe"]), {})
        if group.setdefault(run["encoder"], run) is not run:
            raise InputError(
                f"{run['task']}, {run['probe']}: two runs have an encoder called {run['encoder']}: "
                "give the folder of each encoder's runs as an argument of its own."
            )
    pictures = []
    for (task, probe), group in groups.items():
        rows = [[name, run["score"], *run["layer_weights"]] for name, run in group.items()]
        states = [f"state_{state}" for state in range(max(map(len, rows)) - 2)]
        pictures.append(Path(folder) / f"layers_{task}_{probe}.png")
        write_csv(pictures[-1].with_suffix(".csv"), [["encoder", "score", *states], *rows])
        # Relative to a mean of all layers, so that encoders of any depth can be compared.
        lines = {f"{n} ({s:.1f} %)": [w * len(shares) for w in shares] for n, s, *shares in rows}
        ylabel = "weight × number of states (1: an equal share)"
        _plot(pictures[-1], lines, f"{task}, {probe} probe", ylabel, reference=1.0)
    return pictures
