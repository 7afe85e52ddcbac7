"""From the data keys of a recipe to labelled datasets and loaders: SLURP and Speech Commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.labelled import LabelledManifests, read_annotations
from summarymixing_modules.data.labels import Labels, add_targets, report_unseen
from summarymixing_modules.data.slurp import prepare_slurp
from summarymixing_modules.data.speech_commands import CommandsTask, prepare_speech_commands
from summarymixing_modules.training.asr_data import AUDIO_KEYS, AudioData, build_data

SLURP_KEYS = AUDIO_KEYS | {"tasks", "classes"}
COMMANDS_KEYS = (SLURP_KEYS - {"train_splits", "dev_splits", "test_splits"}) | {
    "words",
    "unknown_share",
    "silence_share",
    "draw_seed",
    "official_test_folder",
}
LABELS_FILE = "labels.json"


@dataclass(frozen=True)
class ClassificationData(AudioData):
    """What a classification recipe trains and tests on.

    Attributes:
        labels: the classes of the training data; also in ``save_folder/labels.json``.
        annotations: of the utterances of all test sets.
        unseen: set → task → class that training does not have → utterances, where there are any.
    """

    labels: Labels
    annotations: dict[str, dict[str, Any]]
    unseen: dict[str, dict[str, dict[str, int]]]


def load_slurp(hparams: Mapping[str, Any]) -> ClassificationData:
    """Prepares SLURP and builds everything that reads it.

    Args:
        hparams: with the ``SLURP_KEYS``.

    Raises:
        InputError: see ``prepare_slurp``, ``make_datasets`` and ``Labels``.
    """
    return _build(hparams, slurp_manifests(hparams))


def load_speech_commands(hparams: Mapping[str, Any]) -> ClassificationData:
    """Prepares Speech Commands and builds everything that reads it.

    Args:
        hparams: with the ``COMMANDS_KEYS``.

    Raises:
        InputError: see ``prepare_speech_commands``, ``make_datasets`` and ``Labels``.
    """
    task = CommandsTask(
        hparams["words"],
        hparams["unknown_share"],
        hparams["silence_share"],
        hparams["draw_seed"],
        hparams["official_test_folder"],
    )
    return _build(hparams, _prepared(prepare_speech_commands, hparams, {"task": task}))


def slurp_manifests(hparams: Mapping[str, Any]) -> LabelledManifests:
    """Writes SLURP's manifests on the main process; every process learns where they are."""
    splits = {key: hparams[key] for key in ("train_splits", "dev_splits", "test_splits")}
    return _prepared(prepare_slurp, hparams, splits)


def _prepared(
    prepare: Callable[..., LabelledManifests],
    hparams: Mapping[str, Any],
    own: Mapping[str, Any],
) -> LabelledManifests:
    arguments = {
        "data_folder": hparams["data_folder"],
        "save_folder": hparams["save_folder"],
        "workers": hparams["prep_workers"],
        "verify": hparams["verify_audio"],
        "max_bad_fraction": hparams["max_bad_audio"],
        **own,
    }
    run_on_main(prepare, kwargs={**arguments, "skip_prep": hparams["skip_prep"]})
    return prepare(**arguments, skip_prep=True)


def _build(hparams: Mapping[str, Any], manifests: LabelledManifests) -> ClassificationData:
    data = build_data(hparams, manifests.train, manifests.valid, manifests.test)
    train = read_annotations(manifests.train)
    labels = Labels.of(train.values(), hparams["tasks"])
    labels.check_sizes(hparams["classes"])
    run_on_main(labels.save, [Path(hparams["save_folder"]) / LABELS_FILE])
    add_targets(data.datasets.train, train, labels)
    annotations: dict[str, dict[str, Any]] = {}
    unseen = {}
    evaluated = {"valid": data.datasets.valid, **data.datasets.test}
    for name, dataset in evaluated.items():
        manifest = manifests.valid if name == "valid" else manifests.test[name]
        of_set = read_annotations(manifest)
        add_targets(dataset, of_set, labels)
        if found := labels.unseen(of_set.values()):
            unseen[name] = found
            report_unseen(name, found)
        if name != "valid":
            annotations |= of_set
    return ClassificationData(
        data.datasets, data.train_loader, data.eval_loader, labels, annotations, unseen
    )
