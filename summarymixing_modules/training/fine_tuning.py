"""Checks of the settings of fine-tuning, of encoders under probes, too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from summarymixing_modules.errors import InputError


def check_settings(hparams: Mapping[str, Any], overrides: Collection[str]) -> None:
    """Refuses settings that mean nothing, and flags that would be ignored.

    Args:
        hparams: of the recipe.
        overrides: keys that the command line gives.

    Raises:
        InputError: names the flag and the remedy.
    """
    if hparams["training_steps"] is None:
        _refuse("without --training_steps", ["warmup_steps"], overrides)
    else:
        annealing = ["annealing_factor", "encoder_annealing_factor"]
        _refuse("with --training_steps", annealing, overrides)
    check_frozen(hparams, overrides)
    if hparams["from_scratch"] and not hparams["freeze_encoder"] and "encoder_lr" not in overrides:
        raise InputError(
            f"--from_scratch=True draws the encoder's weights anew, and encoder_lr="
            f"{hparams['encoder_lr']} is for weights that are trained already: give --encoder_lr, "
            "a rate of training from scratch."
        )
    for key in ("lr", "encoder_lr", "annealing_factor", "encoder_annealing_factor"):
        if not hparams[key] > 0:
            raise InputError(f"--{key}={hparams[key]} must be above 0.")


def check_frozen(hparams: Mapping[str, Any], overrides: Collection[str]) -> None:
    """Refuses rates of an encoder that is frozen; arguments and errors as of `check_settings`."""
    if hparams["freeze_encoder"]:
        rates = ["encoder_lr", "encoder_annealing_factor"]
        _refuse("with --freeze_encoder=True", rates, overrides)


def _refuse(when: str, flags: Collection[str], overrides: Collection[str]) -> None:
    if given := [flag for flag in flags if flag in overrides]:
        raise InputError(f"--{given[0]} has no effect {when}: leave it out.")
