"""From the keys of a recipe to datasets and loaders of speech with transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.manifest import Manifests, read_manifest
from summarymixing_modules.data.preparation import TRANSCRIPT
from summarymixing_modules.data.subset import subset_path, write_subset
from summarymixing_modules.data.text.sentencepiece_tokenizer import build_tokenizer
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.training.data.audio import AudioData, build_data, with_train
from summarymixing_modules.training.data.manifests import prepare_corpus


@dataclass(frozen=True)
class ASRData(AudioData):
    """What a speech recognition recipe trains and tests on.

    Attributes:
        tokenizer: maps transcripts to tokens.
    """

    tokenizer: Tokenizer


def load_transcribed(hparams: Mapping[str, Any], bos_eos: bool = False) -> ASRData:
    """Prepares a corpus and builds everything that reads it.

    Where a recipe has ``train_hours``, that part of the training set is drawn with the ``seed``
    among utterances of the lengths asked for, the same hours of every speaker as far as there are,
    and written to ``save_folder``. The tokenizer is of the whole.

    Args:
        hparams: of the recipe.
        bos_eos: reserve marks for an attention decoder.

    Raises:
        InputError: see ``prepare_corpus``, ``build_tokenizer`` and ``make_datasets``; or there are
            not so many hours.
    """
    manifests = prepare_corpus(hparams, [TRANSCRIPT])
    tokenizer = recipe_tokenizer(hparams, manifests, bos_eos)
    built = build_data(hparams, manifests, tokenizer)
    data = ASRData(built.datasets, built.train_loader, built.eval_loader, tokenizer)
    hours = hparams.get("train_hours")
    return data if hours is None else _with_hours(data, manifests.train, hours, hparams)


def recipe_tokenizer(
    hparams: Mapping[str, Any], manifests: Manifests, bos_eos: bool = False
) -> Tokenizer:
    """The tokenizer that a recipe asks for, trained on its training set where it has to be.

    Args:
        hparams: of the recipe.
        manifests: of the corpus.
        bos_eos: reserve marks for an attention decoder.

    Raises:
        InputError: see ``build_tokenizer``.
    """
    return build_tokenizer(
        hparams["token_type"],
        manifests.train,
        hparams["save_folder"],
        hparams["output_neurons"],
        bos_eos,
    )


def _with_hours(data: ASRData, manifest: Path, hours: float, hparams: Mapping[str, Any]) -> ASRData:
    """The data with so many hours of the training set."""
    whole = data.datasets.train
    among = frozenset(whole.data_ids)
    run_on_main(write_subset, [manifest, hours, hparams["seed"], among])
    drawn = {row.id for row in read_manifest(subset_path(manifest, hours))}
    train = whole.filtered_sorted(key_test={"id": drawn.__contains__})
    return with_train(data, train, hparams)
