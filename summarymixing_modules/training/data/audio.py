"""From the keys of a recipe to datasets and loaders of recordings, without transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from speechbrain.dataio.sampler import DynamicBatchSampler

from summarymixing_modules.data.batching import collate, make_batch_sampler
from summarymixing_modules.data.dataset import SpeechDatasets, make_datasets
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.training.data.manifests import data_folder, prepare_corpus

_Data = TypeVar("_Data", bound="AudioData")


@dataclass(frozen=True)
class AudioData:
    """What a recipe trains and tests on, without transcripts.

    Attributes:
        datasets: train, valid, and a test set for each split.
        train_loader: keyword arguments of the training DataLoader.
        eval_loader: those of the others.
    """

    datasets: SpeechDatasets
    train_loader: dict[str, Any]
    eval_loader: dict[str, Any]


def load_audio(hparams: Mapping[str, Any]) -> AudioData:
    """Prepares a corpus and builds everything that hears it: for self-supervised training.

    Args:
        hparams: of the recipe.

    Raises:
        InputError: see ``prepare_corpus`` and ``make_datasets``.
    """
    return build_data(hparams, prepare_corpus(hparams))


def build_data(
    hparams: Mapping[str, Any], manifests: Manifests, tokenizer: Tokenizer | None = None
) -> AudioData:
    """Datasets and loaders of the manifests of any corpus.

    Args:
        hparams: of the recipe.
        manifests: of the corpus.
        tokenizer: maps transcripts to tokens; None for audio alone.

    Raises:
        InputError: see ``make_datasets``.
    """
    datasets = make_datasets(
        manifests.train,
        manifests.valid,
        manifests.test,
        data_folder(hparams),
        tokenizer,
        Path(hparams["output_folder"]) / "bad_audio.csv",
        hparams["sample_rate"],
        hparams["sorting"],
        hparams["avoid_if_longer_than"],
        hparams["avoid_if_shorter_than"],
        hparams["max_bad_audio"],
        hparams.get("test_max_bad_audio", 0.0),
    )
    loader = {"collate_fn": collate, "num_workers": hparams["num_workers"]}
    return AudioData(
        datasets,
        {"batch_sampler": _sampler(datasets.train, hparams), **loader},
        {"batch_size": hparams["test_batch_size"], **loader},
    )


def with_train(data: _Data, train: ManifestDataset, hparams: Mapping[str, Any]) -> _Data:
    """The same data with another training set, such as a part of it.

    Args:
        data: of ``build_data``.
        train: in the place of the training set.
        hparams: as for ``build_data``.
    """
    return replace(
        data,
        datasets=replace(data.datasets, train=train),
        train_loader={**data.train_loader, "batch_sampler": _sampler(train, hparams)},
    )


def _sampler(train: ManifestDataset, hparams: Mapping[str, Any]) -> DynamicBatchSampler:
    return make_batch_sampler(
        train,
        hparams["max_batch_length"],
        hparams["num_buckets"],
        hparams["max_batch_ex"],
        shuffle=hparams["sorting"] == "random",
        batch_ordering=hparams["sorting"],
        seed=hparams["seed"],
        shard_window=hparams.get("shard_window"),
    )
