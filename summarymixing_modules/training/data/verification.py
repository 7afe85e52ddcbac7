"""From the keys of a recipe to datasets and loaders of speaker verification."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from speechbrain.dataio.batch import PaddedBatch
from torch import Tensor

from summarymixing_modules.data.batching import EmptyBatch, collate
from summarymixing_modules.data.corpora.voxceleb import TASK, Trial, read_trials
from summarymixing_modules.data.labels import Labels
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.data.audio import AudioData
from summarymixing_modules.training.data.labelled import build_labelled
from summarymixing_modules.training.data.manifests import prepare_corpus


@dataclass(frozen=True)
class VerificationData(AudioData):
    """What a verification recipe trains and tests on.

    Attributes:
        labels: the training speakers.
        trials: of the utterances of the one test set.
    """

    labels: Labels
    trials: Sequence[Trial]


def load_verification(hparams: Mapping[str, Any]) -> VerificationData:
    """Prepares a corpus with trials and builds all that reads it; training batches hold crops.

    Args:
        hparams: of the recipe.

    Raises:
        InputError: see ``prepare_corpus`` and ``make_datasets``; or the corpus has no trials.
    """
    manifests = prepare_corpus(hparams)
    if manifests.trials is None:
        raise InputError(f"--corpus={hparams['corpus']} has no trials to verify speakers by.")
    data, labels, _ = build_labelled(hparams, manifests, [TASK], test_labels=False)
    samples = round(hparams["crop_seconds"] * hparams["sample_rate"])
    loader = {
        "batch_size": hparams["max_batch_ex"],
        "shuffle": True,
        "num_workers": hparams["num_workers"],
        "collate_fn": functools.partial(collate_crops, samples=samples),
    }
    trials = read_trials(manifests.trials)
    return VerificationData(data.datasets, loader, data.eval_loader, labels, trials)


def collate_crops(examples: list[dict[str, Any]], samples: int) -> PaddedBatch | EmptyBatch:
    """As `collate`, with a random crop of every recording; short ones stay whole, padded.

    Args:
        examples: of a dataset.
        samples: length of a crop.
    """
    return collate([{**example, "sig": _crop(example["sig"], samples)} for example in examples])


def _crop(sig: Tensor | None, samples: int) -> Tensor | None:
    if sig is None or len(sig) <= samples:
        return sig
    start = int(torch.randint(len(sig) - samples + 1, ()))
    return sig[start : start + samples]
