"""From the keys of a recipe to datasets and loaders of speech with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.data.labels import LABELS_FILE, Labels, add_targets, report_unseen
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.training.data.audio import AudioData, build_data
from summarymixing_modules.training.data.manifests import prepare_corpus

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


def load_labelled(
    hparams: Mapping[str, Any], tasks: Sequence[str] | None = None
) -> ClassificationData:
    """Prepares a corpus and builds everything that reads its labels.

    Args:
        hparams: of the recipe; ``classes`` says how many each task is to have (without it: as many
            as the training data have).
        tasks: what the classes are of; None: the recipe's ``tasks``.

    Raises:
        InputError: see ``prepare_corpus``, ``make_datasets`` and ``Labels``.
    """
    tasks = hparams["tasks"] if tasks is None else tasks
    manifests = prepare_corpus(hparams, tasks)
    data, labels, unseen = build_labelled(hparams, manifests, tasks, hparams.get("classes"))
    annotations: dict[str, dict[str, Any]] = {}
    for manifest in manifests.test.values():
        annotations |= read_annotations(manifest)
    return ClassificationData(
        data.datasets, data.train_loader, data.eval_loader, labels, annotations, unseen
    )


def build_labelled(
    hparams: Mapping[str, Any],
    manifests: Manifests,
    tasks: Sequence[str],
    classes: Sequence[int] | None = None,
    test_labels: bool = True,
) -> tuple[AudioData, Labels, Unseen]:
    """Datasets with targets, the classes of the training data, and classes that it does not have.

    Args:
        hparams: of the recipe.
        manifests: of the corpus.
        tasks: what the classes are of.
        classes: how many each task is to have; None: as many as the training data have.
        test_labels: False where the test sets have other classes.
    """
    data = build_data(hparams, manifests)
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
