"""From the data keys of a recipe to labelled datasets and loaders: SLURP and Speech Commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.corpora.slurp import prepare_slurp
from summarymixing_modules.data.corpora.speech_commands import CommandsTask, prepare_speech_commands
from summarymixing_modules.data.labelled import LabelledManifests, read_annotations
from summarymixing_modules.data.labels import LABELS_FILE, Labels, add_targets, report_unseen
from summarymixing_modules.training.asr_data import (
    AUDIO_KEYS,
    AudioData,
    build_data,
    checked_splits,
    prepare_corpus,
)

SLURP_KEYS = AUDIO_KEYS | {"tasks", "classes"}
COMMANDS_KEYS = (SLURP_KEYS - {"train_splits", "dev_splits", "test_splits"}) | {
    "words",
    "unknown_share",
    "silence_share",
    "draw_seed",
    "official_test_folder",
}


#: Set → task → class that training does not have → utterances.
Unseen: TypeAlias = dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True)
class ClassificationData(AudioData):
    """What a classification recipe trains and tests on.

    Attributes:
        labels: the classes of the training data; also in ``save_folder/labels.json``.
        annotations: of the utterances of all test sets.
        unseen: classes of the evaluations that training does not have.
    """

    labels: Labels
    annotations: dict[str, dict[str, Any]]
    unseen: Unseen


def load_slurp(hparams: Mapping[str, Any]) -> ClassificationData:
    """Prepares SLURP and builds everything that reads it.

    Args:
        hparams: with the ``SLURP_KEYS``.

    Raises:
        InputError: see ``prepare_slurp``, ``make_datasets`` and ``Labels``.
    """
    return build_classification(
        hparams, slurp_manifests(hparams), hparams["tasks"], hparams["classes"]
    )


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
    manifests = prepare_corpus(
        prepare_speech_commands, hparams, task=task, verify=hparams["verify_audio"]
    )
    return build_classification(hparams, manifests, hparams["tasks"], hparams["classes"])


def slurp_manifests(hparams: Mapping[str, Any]) -> LabelledManifests:
    """Writes SLURP's manifests on the main process; every process learns where they are."""
    return prepare_corpus(prepare_slurp, hparams, **checked_splits(hparams))


def build_classification(
    hparams: Mapping[str, Any],
    manifests: LabelledManifests,
    tasks: Sequence[str],
    classes: Sequence[int] | None = None,
) -> ClassificationData:
    """Everything that reads the manifests of a labelled corpus.

    Args:
        hparams: with the keys of ``build_data``.
        manifests: of the corpus.
        tasks: what the classes are of.
        classes: how many each task is to have; None: as many as the training data have.

    Raises:
        InputError: see ``make_datasets`` and ``Labels``.
    """
    data, labels, unseen = build_labelled(hparams, manifests, tasks, classes)
    annotations: dict[str, dict[str, Any]] = {}
    for manifest in manifests.test.values():
        annotations |= read_annotations(manifest)
    return ClassificationData(
        data.datasets, data.train_loader, data.eval_loader, labels, annotations, unseen
    )


def build_labelled(
    hparams: Mapping[str, Any],
    manifests: LabelledManifests,
    tasks: Sequence[str],
    classes: Sequence[int] | None = None,
    test_labels: bool = True,
) -> tuple[AudioData, Labels, Unseen]:
    """Datasets with targets, the classes of the training data, and classes that it does not have.

    Args:
        hparams, manifests, tasks, classes: as in ``build_classification``.
        test_labels: False where the test sets have other classes.
    """
    data = build_data(hparams, manifests.train, manifests.valid, manifests.test)
    annotations = {"train": read_annotations(manifests.train)}
    labels = Labels.of(annotations["train"].values(), tasks)
    if classes is not None:
        labels.check_sizes(classes)
    run_on_main(labels.save, [Path(hparams["save_folder"]) / LABELS_FILE])
    sets = {"train": data.datasets.train, "valid": data.datasets.valid}
    annotations["valid"] = read_annotations(manifests.valid)
    if test_labels:
        sets |= data.datasets.test
        annotations |= {name: read_annotations(path) for name, path in manifests.test.items()}
    unseen: Unseen = {}
    for name, dataset in sets.items():
        add_targets(dataset, annotations[name], labels)
        if found := labels.unseen(annotations[name].values()):
            unseen[name] = found
            report_unseen(name, found)
    return data, labels, unseen
