"""Sizes at which recipes run in seconds, as flags that a YAML file has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml

from summarymixing_modules.training.recipe.yaml_checks import read_recipe

#: Of models and batches of any recipe.
TINY_SIZES: dict[str, Any] = {
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "d_model": 16,
    "nhead": 2,
    "decoder_nhead": 2,
    "d_ffn": 32,
    "csgu_linear_units": 32,
    "kernel_size": 7,
    "cnn_channels": "[4, 4]",
    "num_workers": 0,
}


def flags_for(hparams: Path, options: Mapping[str, Any], **changes: Any) -> list[str]:
    """Those options that are keys of the file, and all changes, as flags."""
    tree = read_recipe(hparams).tree
    known = {key: value for key, value in options.items() if key in tree}
    return [f"--{key}={value}" for key, value in (known | changes).items()]


def built(hparams: Path, overrides: str = "") -> dict[str, Any]:
    """The objects of a recipe's YAML file, without its train.py."""
    loaded: dict[str, Any] = load_hyperpyyaml(read_recipe(hparams).text(), overrides)
    return loaded
