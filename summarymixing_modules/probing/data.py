"""From the data keys of a probing recipe to datasets and loaders, for each of its tasks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from summarymixing_modules.data.corpora.common_voice import prepare_common_voice
from summarymixing_modules.data.corpora.iemocap import TASK as EMOTION
from summarymixing_modules.data.corpora.iemocap import prepare_iemocap
from summarymixing_modules.data.corpora.voxceleb import TASK as SPEAKER
from summarymixing_modules.data.corpora.voxceleb import Trial, prepare_voxceleb, read_trials
from summarymixing_modules.data.labels import Labels
from summarymixing_modules.data.text.sentencepiece_tokenizer import build_tokenizer
from summarymixing_modules.probing.verification import collate_crops
from summarymixing_modules.training.asr_data import (
    ASRData,
    AudioData,
    build_data,
    prepare_corpus,
)
from summarymixing_modules.training.classification_data import (
    ClassificationData,
    build_classification,
    build_labelled,
    slurp_manifests,
)


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
    manifests = prepare_corpus(
        prepare_common_voice,
        hparams,
        language=hparams["language"],
        longest=hparams["longest"],
        clips_folder=hparams["clips_folder"],
    )
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
    manifests = prepare_corpus(prepare_iemocap, hparams, **own)
    return build_classification(hparams, manifests, [EMOTION])


def load_slurp_scenarios(hparams: Mapping[str, Any]) -> ClassificationData:
    """Prepares SLURP and builds everything that reads it, with the scenario as the class.

    Args:
        hparams: with the keys of the YAML file.

    Raises:
        InputError: see ``prepare_slurp`` and ``make_datasets``.
    """
    return build_classification(hparams, slurp_manifests(hparams), ["scenario"])


def load_voxceleb(hparams: Mapping[str, Any]) -> VerificationData:
    """Prepares VoxCeleb1 and builds everything that reads it; training batches hold crops.

    Args:
        hparams: with the keys of the YAML file.

    Raises:
        InputError: see ``prepare_voxceleb`` and ``make_datasets``.
    """
    own = {"trials_file": hparams["trials_file"], "valid_share": hparams["valid_share"]}
    own |= {"seed": hparams["seed"], "verify": hparams["verify_audio"]}
    manifests = prepare_corpus(prepare_voxceleb, hparams, **own)
    data, labels, _ = build_labelled(hparams, manifests, [SPEAKER], test_labels=False)
    samples = round(hparams["crop_seconds"] * hparams["sample_rate"])
    loader = {
        "batch_size": hparams["max_batch_ex"],
        "shuffle": True,
        "num_workers": hparams["num_workers"],
        "collate_fn": functools.partial(collate_crops, samples=samples),
    }
    trials = read_trials(manifests.trials)
    return VerificationData(data.datasets, loader, data.eval_loader, labels, trials)
