"""Settings and data of the fine-tuning of a pre-trained encoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.data.subset import subset_path, write_subset
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.asr_data import (
    DATA_KEYS,
    ASRData,
    load_librispeech,
    with_train,
)

FINE_TUNING_DATA_KEYS = DATA_KEYS | {"train_hours"}


def check_settings(hparams: Mapping[str, Any], overrides: Collection[str]) -> None:
    """Refuses settings that mean nothing, and flags that would be ignored.

    Args:
        hparams: of the recipe.
        overrides: keys that the command line gives.

    Raises:
        InputError: names the flag and the remedy.
    """
    annealing = ["annealing_factor", "encoder_annealing_factor"]
    useless = [("without --training_steps", ["warmup_steps"])]
    if hparams["training_steps"] is not None:
        useless = [("with --training_steps", annealing)]
    if hparams["freeze_encoder"]:
        useless.append(("with --freeze_encoder=True", ["encoder_lr", annealing[1]]))
    for when, flags in useless:
        if given := [flag for flag in flags if flag in overrides]:
            raise InputError(f"--{given[0]} has no effect {when}: leave it out.")
    if hparams["from_scratch"] and not hparams["freeze_encoder"] and "encoder_lr" not in overrides:
        raise InputError(
            f"--from_scratch=True draws the encoder's weights anew, and encoder_lr="
            f"{hparams['encoder_lr']} is for weights that are trained already: give --encoder_lr, "
            "a rate of training from scratch."
        )
    for key in ("lr", "encoder_lr", "annealing_factor", "encoder_annealing_factor"):
        if not hparams[key] > 0:
            raise InputError(f"--{key}={hparams[key]} must be above 0.")


def load_fine_tuning_data(hparams: Mapping[str, Any]) -> ASRData:
    """LibriSpeech, or ``train_hours`` hours of its training splits.

    The part is drawn with the ``seed`` among utterances of the lengths asked for, the same hours of
    every speaker as far as there are, and written to ``save_folder``.

    Args:
        hparams: with the ``FINE_TUNING_DATA_KEYS``.

    Raises:
        InputError: see ``load_librispeech``; or there are not so many hours.
    """
    data, hours = load_librispeech(hparams), hparams["train_hours"]
    if hours is None:
        return data
    manifest = Path(hparams["save_folder"]) / "train.csv"
    whole = data.datasets.train
    run_on_main(
        write_subset,
        kwargs={
            "manifest": manifest,
            "hours": hours,
            "seed": hparams["seed"],
            "among": frozenset(whole.data_ids),
        },
    )
    drawn = {row.id for row in read_manifest(subset_path(manifest, hours))}
    train = whole.filtered_sorted(key_test={"id": drawn.__contains__})
    return with_train(data, train, hparams)
