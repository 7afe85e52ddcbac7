"""Results of layer probes: ``layer_probes.json``, and a picture and a CSV file for each task."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.layer_plots import LayerLine, plot_layers

RESULTS = "layer_probes.json"


@dataclass(frozen=True)
class Figure:
    """What the figures of a task are.

    Attributes:
        name: a column of the CSV file.
        label: of the picture's axis, with unit.
        title: of the picture.
        reference: what the dashed line is.
        best: picks the best of several.
    """

    name: str
    label: str
    title: str
    reference: str
    best: Any


FIGURES = {
    "speaker": Figure(
        "accuracy",
        "accuracy on utterances held out (%)",
        "Speaker: logistic regression on the mean over time",
        "most frequent speaker",
        max,
    ),
    "content": Figure(
        "cer",
        "character error rate, test-clean (%)",
        "Content: one linear CTC layer, greedy",
        "nothing recognised",
        min,
    ),
    "emotion": Figure(
        "accuracy",
        "accuracy, mean of ten folds (%)",
        "Emotion: logistic regression on the mean over time",
        "most frequent emotion",
        max,
    ),
}


@dataclass(frozen=True)
class LayerProbe:
    """The probes of one task on all hidden states of one encoder.

    Attributes:
        encoder: its name in pictures.
        path: of its folder.
        encoder_digest: see ``FrozenEncoder.digest``.
        task: one of `FIGURES`.
        settings: all that the figures depend on besides the encoder.
        figures: of every hidden state, in percent; the input of the first layer comes first.
        chance: what is reached without the encoder, in percent.
        details: sizes of the sets, software and machine.
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
    if not path.exists():
        return []
    try:
        return [LayerProbe(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} does not hold results of layer probes ({error}): move it away, or give "
            "another --output_folder."
        ) from error


def find_result(
    results: Sequence[LayerProbe], digest: str, task: str, settings: Mapping[str, Any]
) -> LayerProbe | None:
    """The finished probes of an encoder with these settings, whatever it is called."""
    for result in results:
        if (result.encoder_digest, result.task) == (digest, task) and result.settings == settings:
            return result
    return None


def write_results(
    folder: Path, results: Sequence[LayerProbe], shown: Sequence[LayerProbe]
) -> list[Path]:
    """Write ``layer_probes.json``, and ``layer_probes_TASK.png`` and ``.csv``.

    Args:
        folder: made if missing.
        results: all that has ever been finished there, for the JSON file.
        shown: of the encoders asked for, for pictures and tables.

    Returns:
        the files.
    """
    text = json.dumps([asdict(result) for result in results], indent=2, allow_nan=False)
    write_atomically(folder / RESULTS, text + "\n")
    files = [folder / RESULTS]
    for task in dict.fromkeys(result.task for result in shown):
        chosen = [result for result in shown if result.task == task]
        path = folder / f"layer_probes_{task}.png"
        _write_csv(path.with_suffix(".csv"), FIGURES[task], chosen)
        _plot(path, FIGURES[task], chosen)
        files += [path, path.with_suffix(".csv")]
    return files


def _write_csv(path: Path, figure: Figure, results: Sequence[LayerProbe]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["encoder", "layer", figure.name, "chance"])
    for result in results:
        for layer, value in enumerate(result.figures):
            writer.writerow([result.encoder, layer, value, result.chance])
    write_atomically(path, text.getvalue())


def _plot(path: Path, figure: Figure, results: Sequence[LayerProbe]) -> None:
    lines = []
    for result in results:
        best = figure.best(result.figures)
        layer = list(result.figures).index(best)
        lines.append(LayerLine(f"{result.encoder} ({best:.1f} % at state {layer})", result.figures))
    chance = results[0].chance  # of the data, so the same for all encoders
    label = f"{figure.reference} ({chance:.1f} %)"
    plot_layers(path, lines, figure.title, figure.label, chance, label)
