"""From the data keys of a recipe to manifests, tokenizer, datasets and loaders: any corpus, and
LibriSpeech.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.distributed import if_main_process, is_distributed_initialized
from speechbrain.utils.logger import get_logger
from torch import distributed

from summarymixing_modules.data.batching import collate, make_batch_sampler
from summarymixing_modules.data.corpora.librispeech import prepare_librispeech
from summarymixing_modules.data.dataset import SpeechDatasets, make_datasets
from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.text.sentencepiece_tokenizer import build_tokenizer
from summarymixing_modules.data.text.tokenizers import Tokenizer

logger = get_logger(__name__)

AUDIO_KEYS = frozenset(
    {
        "data_folder",
        "save_folder",
        "train_splits",
        "dev_splits",
        "test_splits",
        "skip_prep",
        "verify_audio",
        "max_bad_audio",
        "test_max_bad_audio",  # of a test set; 0
        "prep_workers",
        "sample_rate",
        "sorting",
        "avoid_if_longer_than",
        "avoid_if_shorter_than",
        "max_batch_length",
        "max_batch_ex",
        "num_buckets",
        "num_workers",
        "test_batch_size",
        "seed",
    }
)
DATA_KEYS = AUDIO_KEYS | {"token_type", "output_neurons"}

#: Minutes after which preparing beforehand is recommended.
_LONG = 5
_Manifests = TypeVar("_Manifests")
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


@dataclass(frozen=True)
class ASRData(AudioData):
    """What a speech recognition recipe trains and tests on.

    Attributes:
        tokenizer: maps transcripts to tokens.
    """

    tokenizer: Tokenizer


def load_librispeech(hparams: Mapping[str, Any], bos_eos: bool = False) -> ASRData:
    """Prepares LibriSpeech and builds everything that reads it.

    Args:
        hparams: with the ``DATA_KEYS``.
        bos_eos: reserve marks for an attention decoder.

    Raises:
        InputError: see ``prepare_librispeech``, ``build_tokenizer`` and ``make_datasets``.
    """
    manifests = prepare_corpus(prepare_librispeech, hparams, **checked_splits(hparams))
    tokenizer = build_tokenizer(
        hparams["token_type"],
        manifests.train,
        hparams["save_folder"],
        hparams["output_neurons"],
        bos_eos,
    )
    data = build_data(hparams, manifests.train, manifests.valid, manifests.test, tokenizer)
    return ASRData(data.datasets, data.train_loader, data.eval_loader, tokenizer)


def load_librispeech_audio(hparams: Mapping[str, Any]) -> AudioData:
    """As ``load_librispeech``, without tokens: for self-supervised training.

    Args:
        hparams: with the ``AUDIO_KEYS``.

    Raises:
        InputError: see ``prepare_librispeech`` and ``make_datasets``.
    """
    manifests = prepare_corpus(prepare_librispeech, hparams, **checked_splits(hparams))
    return build_data(hparams, manifests.train, manifests.valid, manifests.test)


def build_data(
    hparams: Mapping[str, Any],
    train: Path,
    valid: Path,
    test: Mapping[str, Path],
    tokenizer: Tokenizer | None = None,
) -> AudioData:
    """Datasets and loaders of the manifests of any corpus.

    Args:
        hparams: with the ``AUDIO_KEYS``.
        train: training manifest.
        valid: validation manifest.
        test: name → test manifest.
        tokenizer: maps transcripts to tokens; None for audio alone.

    Raises:
        InputError: see ``make_datasets``.
    """
    datasets = make_datasets(
        train,
        valid,
        test,
        hparams["data_folder"],
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
    )


def prepare_corpus(
    prepare: Callable[..., _Manifests], hparams: Mapping[str, Any], **own: Any
) -> _Manifests:
    """Writes the manifests of a corpus on the main process; every process learns where they are.

    Args:
        prepare: such as ``prepare_librispeech``.
        hparams: with the keys that all corpora have.
        **own: arguments of ``prepare`` beside those.
    """
    arguments = {
        "data_folder": hparams["data_folder"],
        "save_folder": hparams["save_folder"],
        "workers": hparams["prep_workers"],
        "max_bad_fraction": hparams["max_bad_audio"],
        **own,
    }
    if "test_max_bad_audio" in hparams:
        arguments["test_max_bad_fraction"] = hparams["test_max_bad_audio"]
    on_main_first(partial(prepare, **arguments, skip_prep=hparams["skip_prep"]))
    return prepare(**arguments, skip_prep=True)


def on_main_first(work: Callable[[], object]) -> None:
    """Works on the main process while the others wait, however long it takes.

    SpeechBrain's ``run_on_main`` waits in the group that trains: it gives up after its timeout, and
    a corpus may take longer. The group made here waits a year, and is gone afterwards.

    Args:
        work: what to do.
    """
    if not is_distributed_initialized():
        work()
        return
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    started = time.monotonic()
    if if_main_process():
        work()
        if (minutes := (time.monotonic() - started) / 60) > _LONG:
            logger.warning(
                f"{distributed.get_world_size()} processes have waited {minutes:.0f} minutes for "
                "one to prepare the corpus. `summarymixing prepare RECIPE.yaml` with the flags of "
                "the training does that before it starts."
            )
    distributed.barrier(group)
    distributed.destroy_process_group(group)


def checked_splits(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a preparation that takes splits and a way to check the audio."""
    return {
        "verify": hparams["verify_audio"],
        "train_splits": hparams["train_splits"],
        "dev_splits": hparams["dev_splits"],
        "test_splits": hparams["test_splits"],
    }
