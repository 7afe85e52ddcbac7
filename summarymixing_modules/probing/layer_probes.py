"""Light linear probes on every hidden state of frozen encoders, each encoder and task once.

``layer_probes.json`` has all that was ever finished in a folder; ``layer_probes_TASK.png`` and
``.csv`` have the encoders that were asked for last.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from summarymixing_modules.data.files import write_atomically, write_csv
from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.encoder import FrozenEncoder, frozen_encoder
from summarymixing_modules.probing.layer_data import TRAIN_SET, Corpora, Settings
from summarymixing_modules.probing.layer_figures import plot_layers
from summarymixing_modules.probing.layer_tasks import TASKS
from summarymixing_modules.probing.states import ProbedEncoder
from summarymixing_modules.training.run.report import provenance

RESULTS = "layer_probes.json"


@dataclass(frozen=True)
class LayerProbe:
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


def probe_layers(settings: Settings) -> list[Path]:
    """Probes encoders; results are written after every task, and what is finished is kept.

    Returns:
        the files written.

    Raises:
        InputError: an encoder or a corpus cannot be used, two encoders have one name, or hidden
            states do not fit into memory; before anything is encoded.
    """
    paths, folder = _named(settings.encoders), settings.output_folder
    results = read_results(folder)
    load = partial(frozen_encoder, trust_run=settings.trust_run)
    digests = {name: load(path).digest() for name, path in paths.items()}
    corpora = Corpora(settings)
    wanted = {name: t.depends_on(corpora) for name, t in TASKS.items() if name in settings.tasks}

    def find(name: str, task: str) -> LayerProbe | None:
        """The finished probes of an encoder, whatever it was called then."""
        key = (digests[name], task, wanted[task])
        found = (p for p in results if (p.encoder_digest, p.task, p.settings) == key)
        return next(found, None)

    def write() -> list[Path]:
        found = [(name, find(name, task)) for task in wanted for name in paths]
        asked_for = [replace(probe, encoder=name) for name, probe in found if probe is not None]
        return write_results(folder, results, asked_for)

    missing = {name: [task for task in wanted if find(name, task) is None] for name in paths}
    for name, tasks in missing.items():
        if "content" in tasks:
            _check_memory(name, load(paths[name]), corpora)
    for name, tasks in missing.items():
        if not tasks:
            continue
        encoder = load(paths[name])
        probed = ProbedEncoder(name, encoder, corpora, keep_frames="content" in tasks)
        for task in tasks:
            started = time.perf_counter()
            figures, chance, details = TASKS[task].probe(probed)
            details |= {"seconds": time.perf_counter() - started, "device": settings.device}
            about = (name, str(paths[name]), digests[name], task, wanted[task])
            results.append(LayerProbe(*about, figures, chance, details | provenance()))
            write()
    return write()


def _named(folders: Sequence[str]) -> dict[str, Path]:
    """Encoders by the names of their folders."""
    named: dict[str, Path] = {}
    for path in map(Path, folders):
        if not path.is_dir():
            raise InputError(
                f"--encoders {path}: no such folder. Give a bundle (summarymixing export), the "
                "output folder of a pre-training, or a local folder with a model of Hugging Face."
            )
        name = Path(os.path.abspath(path)).name
        if name in named:
            raise InputError(
                f"--encoders {named[name]} {path}: both are called {name}, and pictures could not "
                "tell them apart: give one through a link of another name."
            )
        named[name] = path
    return named


def _check_memory(name: str, encoder: FrozenEncoder, corpora: Corpora) -> None:
    """Refuses hidden states that do not fit into the machine's memory, in half precision."""
    seconds = 10
    samples_BL = torch.zeros(1, seconds * encoder.sample_rate)
    frames = int(encoder(samples_BL, torch.tensor([samples_BL.shape[1]])).lengths_B[0])
    hours = corpora.librispeech.hours(TRAIN_SET)
    needed = 2 * 3600 * hours * frames / seconds * encoder.num_states * encoder.state_size
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"--tasks content: the hidden states of {name} for {hours:.1f} h take "
            f"{needed / 1e9:.1f} GB of this machine's {there / 1e9:.1f} GB: lower --max_hours."
        )


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
    text = json.dumps([asdict(result) for result in results], indent=2, allow_nan=False)
    write_atomically(folder / RESULTS, text + "\n")
    files = [folder / RESULTS]
    for name in dict.fromkeys(probe.task for probe in shown):
        task, probes = TASKS[name], [probe for probe in shown if probe.task == name]
        picture = folder / f"layer_probes_{name}.png"
        head = ("encoder", "layer", task.column, "chance")
        rows = [
            (probe.encoder, state, figure, probe.chance)
            for probe in probes
            for state, figure in enumerate(probe.figures)
        ]
        write_csv(picture.with_suffix(".csv"), [head, *rows])
        lines = {}
        for probe in probes:
            best = task.best(probe.figures)
            state = list(probe.figures).index(best)
            lines[f"{probe.encoder} ({best:.1f} % at state {state})"] = probe.figures
        chance = probes[0].chance  # of the data, so the same for all encoders
        reference = f"{task.reference} ({chance:.1f} %)"
        plot_layers(picture, lines, task.title, task.label, chance, reference)
        files += [picture, picture.with_suffix(".csv")]
    return files
