"""From the data keys of a probing recipe to datasets and loaders, for each of its tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.common_voice import prepare_common_voice
from summarymixing_modules.data.iemocap import TASK as EMOTION
from summarymixing_modules.data.iemocap import prepare_iemocap
from summarymixing_modules.data.labelled import LabelledManifests, read_annotations
from summarymixing_modules.data.labels import Labels, add_targets, report_unseen
from summarymixing_modules.data.sentencepiece_tokenizer import build_tokenizer
from summarymixing_modules.data.slurp import prepare_slurp
from summarymixing_modules.data.voxceleb import TASK as SPEAKER
from summarymixing_modules.data.voxceleb import Trial, prepare_voxceleb, read_trials
from summarymixing_modules.training.asr_data import ASRData, AudioData, build_data
from summarymixing_modules.training.classification_data import ClassificationData
from summarymixing_modules.training.verification import collate_crops

_Manifests = TypeVar("_Manifests", bound=LabelledManifests)


@dataclass(frozen=True)
class VerificationData(AudioData):
    """What a verification recipe trains and tests on.

    Attributes:
        labels: the training speakers.
        trials: of the utterances of the one test set.
    """

    labels: Labels
    trials: Sequence[Trial]


def load_common_voice(hparams: Mapping[str, Any]) -> ASRData:
    """Prepares a language of Common Voice and builds everything that reads it.

    Args:
        hparams: with the keys of the YAML file.

    Raises:
        InputError: see ``prepare_common_voice``, ``build_tokenizer`` and ``make_datasets``.
    """
    own = {key: hparams[key] for key in ("language", "longest", "clips_folder")}
    manifests = _prepared(prepare_common_voice, hparams, own)
    tokenizer = build_tokenizer(
        hparams["token_type"],
        manifests.train,
        hparams["save_folder"],
        hparams["output_neurons"],
    )
    data = build_data(hparams, manifests.train, manifests.valid, manifests.test, tokenizer)
    return ASRData(data.datasets, data.train_loader, data.eval_loader, tokenizer)


def load_iemocap(hparams: Mapping[str, Any]) -> ClassificationData:
    """Prepares a fold of IEMOCAP and builds everything that reads it.

    Args:
        hparams: with the keys of the YAML file.

    Raises:
        InputError: see ``prepare_iemocap`` and ``make_datasets``.
    """
    own = {"fold": hparams["fold"], "verify": hparams["verify_audio"]}
    return _classified(hparams, _prepared(prepare_iemocap, hparams, own), [EMOTION])


def load_slurp_scenarios(hparams: Mapping[str, Any]) -> ClassificationData:
    """Prepares SLURP and builds everything that reads it, with the scenario as the class.

    Args:
        hparams: with the keys of the YAML file.

    Raises:
        InputError: see ``prepare_slurp`` and ``make_datasets``.
    """
    own = {key: hparams[key] for key in ("train_splits", "dev_splits", "test_splits")}
    own["verify"] = hparams["verify_audio"]
    return _classified(hparams, _prepared(prepare_slurp, hparams, own), ["scenario"])


def load_voxceleb(hparams: Mapping[str, Any]) -> VerificationData:
    """Prepares VoxCeleb1 and builds everything that reads it; training batches hold crops.

    Args:
        hparams: with the keys of the YAML file.

    Raises:
        InputError: see ``prepare_voxceleb`` and ``make_datasets``.
    """
    own = {key: hparams[key] for key in ("trials_file", "valid_share", "seed")}
    own["verify"] = hparams["verify_audio"]
    manifests = _prepared(prepare_voxceleb, hparams, own)
    data, labels, _ = _labelled(hparams, manifests, [SPEAKER], test_labels=False)
    samples = round(hparams["crop_seconds"] * hparams["sample_rate"])
    loader = {
        "batch_size": hparams["max_batch_ex"],
        "shuffle": True,
        "num_workers": hparams["num_workers"],
        "collate_fn": functools.partial(collate_crops, samples=samples),
    }
    trials = read_trials(manifests.trials)
    return VerificationData(data.datasets, loader, data.eval_loader, labels, trials)


def _prepared(
    prepare: Callable[..., _Manifests], hparams: Mapping[str, Any], own: Mapping[str, Any]
) -> _Manifests:
    """Writes manifests on the main process; every process learns where they are."""
    arguments = {
        "data_folder": hparams["data_folder"],
        "save_folder": hparams["save_folder"],
        "workers": hparams["prep_workers"],
        "max_bad_fraction": hparams["max_bad_audio"],
        **own,
    }
    run_on_main(prepare, kwargs={**arguments, "skip_prep": hparams["skip_prep"]})
    return prepare(**arguments, skip_prep=True)


def _classified(
    hparams: Mapping[str, Any], manifests: LabelledManifests, tasks: Sequence[str]
) -> ClassificationData:
    data, labels, unseen = _labelled(hparams, manifests, tasks)
    annotations = [read_annotations(manifest) for manifest in manifests.test.values()]
    merged = {name: record for of_set in annotations for name, record in of_set.items()}
    return ClassificationData(
        data.datasets, data.train_loader, data.eval_loader, labels, merged, unseen
    )


def _labelled(
    hparams: Mapping[str, Any],
    manifests: LabelledManifests,
    tasks: Sequence[str],
    test_labels: bool = True,
) -> tuple[AudioData, Labels, dict[str, dict[str, dict[str, int]]]]:
    """Datasets with targets, the classes of the training data, and classes that it does not have.

    Args:
        hparams: with the keys of the YAML file.
        manifests: of the corpus.
        tasks: what the classes are of.
        test_labels: False where the test sets have other classes.
    """
    data = build_data(hparams, manifests.train, manifests.valid, manifests.test)
    annotations = {"train": read_annotations(manifests.train)}
    labels = Labels.of(annotations["train"].values(), tasks)
    run_on_main(labels.save, [Path(hparams["save_folder"]) / "labels.json"])
    sets = {"train": data.datasets.train, "valid": data.datasets.valid}
    annotations["valid"] = read_annotations(manifests.valid)
    if test_labels:
        sets |= data.datasets.test
        annotations |= {name: read_annotations(path) for name, path in manifests.test.items()}
    unseen = {}
    for name, dataset in sets.items():
        add_targets(dataset, annotations[name], labels)
        if found := labels.unseen(annotations[name].values()):
            unseen[name] = found
            report_unseen(name, found)
    return data, labels, unseen
