"""Light linear probes on every hidden state of frozen encoders, each encoder and task once."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from summarymixing_modules.bundles.speech_encoder import frozen_encoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.probe import FrozenEncoder
from summarymixing_modules.training.layer_probe_data import (
    EmotionCorpus,
    LibriSpeechPart,
    load_emotions,
    load_librispeech_part,
)
from summarymixing_modules.training.layer_probe_results import (
    LayerProbe,
    find_result,
    read_results,
    write_results,
)
from summarymixing_modules.training.layer_probe_tasks import TASKS, ProbedEncoder, Settings
from summarymixing_modules.training.report import provenance

#: Raise it whenever the same encoder, data and settings give other figures.
_VERSION = 1


@dataclass(frozen=True)
class _Plan:
    """What a call has to do.

    Attributes:
        encoders: name → folder.
        digests: name → digest.
        librispeech: None if no task needs it.
        emotions: None if no task needs it.
        wanted: task → all that its figures depend on besides the encoder.
    """

    encoders: Mapping[str, Path]
    digests: Mapping[str, str]
    librispeech: LibriSpeechPart | None
    emotions: EmotionCorpus | None
    wanted: Mapping[str, Mapping[str, Any]]

    def missing(self, name: str, results: Sequence[LayerProbe]) -> list[str]:
        """Tasks that are not finished for an encoder."""
        digest = self.digests[name]
        return [t for t, s in self.wanted.items() if find_result(results, digest, t, s) is None]

    def shown(self, results: Sequence[LayerProbe]) -> list[LayerProbe]:
        """What there is of the encoders asked for, under the names that they have now."""
        found = [
            (name, find_result(results, digest, task, settings))
            for task, settings in self.wanted.items()
            for name, digest in self.digests.items()
        ]
        return [replace(result, encoder=name) for name, result in found if result is not None]


def probe_layers(paths: Sequence[str], tasks: Sequence[str], settings: Settings) -> list[Path]:
    """Probes encoders; results are written after every task, and what is finished is kept.

    Args:
        paths: of encoders, see ``frozen_encoder``.
        tasks: some of `TASKS`.
        settings: of the probes.

    Returns:
        the files written.

    Raises:
        InputError: an encoder or a corpus cannot be used, two encoders have one name, or hidden
            states do not fit into memory; before anything is encoded.
    """
    encoders = _named(paths)
    folder = settings.output_folder
    results = read_results(folder)
    plan = _plan(encoders, tasks, settings)
    missing = {name: plan.missing(name, results) for name in encoders}
    for name, of_encoder in missing.items():
        if "content" in of_encoder:
            assert plan.librispeech is not None
            _check_memory(frozen_encoder(encoders[name]), name, plan.librispeech)
    for name, of_encoder in missing.items():
        if not of_encoder:
            continue
        probed = ProbedEncoder(
            frozen_encoder(encoders[name]),
            settings,
            plan.librispeech,
            plan.emotions,
            keep_frames="content" in of_encoder,
            name=name,
        )
        for task in of_encoder:
            results.append(_probe(probed, task, plan))
            write_results(folder, results, plan.shown(results))
    return write_results(folder, results, plan.shown(results))


def _plan(encoders: Mapping[str, Path], tasks: Sequence[str], settings: Settings) -> _Plan:
    digests = {name: frozen_encoder(path).digest() for name, path in encoders.items()}
    prepared = settings.preparation
    chosen = [task for task in TASKS if task in tasks]
    librispeech = load_librispeech_part(prepared) if {"speaker", "content"} & {*chosen} else None
    emotions = load_emotions(prepared) if "emotion" in chosen else None
    wanted = {task: _task_settings(task, settings, librispeech, emotions) for task in chosen}
    return _Plan(encoders, digests, librispeech, emotions, wanted)


def _probe(probed: ProbedEncoder, task: str, plan: _Plan) -> LayerProbe:
    started = time.perf_counter()
    outcome = TASKS[task](probed)
    return LayerProbe(
        encoder=probed.name,
        path=str(plan.encoders[probed.name]),
        encoder_digest=plan.digests[probed.name],
        task=task,
        settings=plan.wanted[task],
        figures=list(outcome.figures),
        chance=outcome.chance,
        details={
            **outcome.details,
            "seconds": time.perf_counter() - started,
            "device": probed.settings.device,
            **provenance(),
        },
    )


def _named(paths: Sequence[str]) -> dict[str, Path]:
    """Encoders by the names of their folders."""
    named: dict[str, Path] = {}
    for given in paths:
        path = Path(given)
        if not path.is_dir():
            raise InputError(
                f"--encoders {given}: no such folder. Give a bundle (summarymixing export), the "
                "output folder of a pre-training, or a local folder with a model of Hugging Face."
            )
        name = Path(os.path.abspath(path)).name
        if name in named:
            raise InputError(
                f"--encoders {named[name]} {given}: both are called {name}, and pictures could "
                "not tell them apart: give one through a link of another name."
            )
        named[name] = path
    return named


def _task_settings(
    task: str,
    settings: Settings,
    librispeech: LibriSpeechPart | None,
    emotions: EmotionCorpus | None,
) -> dict[str, Any]:
    """All that the figures of a task depend on, besides the encoder; as JSON gives it back."""
    if task == "emotion":
        assert emotions is not None
        return {"version": _VERSION, "data": emotions.digest}
    assert librispeech is not None
    found: dict[str, Any] = {
        "version": _VERSION,
        "data": librispeech.digest,
        "seed": settings.seed,
        "max_hours": settings.preparation.max_hours,
    }
    if task == "content":
        found |= {"epochs": settings.content_epochs, "batch_seconds": settings.batch_seconds}
    return found


def _check_memory(encoder: FrozenEncoder, name: str, librispeech: LibriSpeechPart) -> None:
    """Refuses hidden states that do not fit into the machine's memory."""
    seconds = 10
    samples_BL = torch.zeros(1, seconds * encoder.sample_rate)
    frames = int(encoder(samples_BL, torch.tensor([samples_BL.shape[1]])).lengths_B[0])
    audio = sum(row.duration for row in librispeech.train_rows)
    values = audio * frames / seconds * encoder.num_states * encoder.state_size
    needed, there = 2 * values, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"--tasks content: the hidden states of {name} for {audio / 3600:.1f} h take "
            f"{needed / 1e9:.1f} GB of this machine's {there / 1e9:.1f} GB: lower --max_hours."
        )
