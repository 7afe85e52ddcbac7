"""An encoder to be probed, from whatever folder it is in."""

from __future__ import annotations

import json
import os
from pathlib import Path

from summarymixing_modules.bundles.ssl_encoder import SSLEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.huggingface import HuggingFaceEncoder
from summarymixing_modules.models.probe import FrozenEncoder


def frozen_encoder(
    path: str | os.PathLike[str], sample_rate: int = 16000, trust_run: bool = False
) -> FrozenEncoder:
    """A pre-trained encoder that nothing changes any more.

    Args:
        path: folder of a bundle or output folder of a run of this project, or a local folder with
            a speech encoder of Hugging Face's transformers. Nothing is downloaded.
        sample_rate: of the audio that it will get, Hz.
        trust_run: it may be a run, whose hyperparams.yaml is run as code.

    Raises:
        InputError: no such folder, another sample rate, or see `SSLEncoder.from_path` and
            `HuggingFaceEncoder`.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(
            f"--encoder={path}: no such folder. Give a bundle (summarymixing export), the output "
            "folder of a pre-training, or a local folder with a model of Hugging Face."
        )
    if is_huggingface(folder):
        encoder = FrozenEncoder(HuggingFaceEncoder(folder))
    else:
        encoder = FrozenEncoder(SSLEncoder.from_path(folder, trust_run).freeze())
    if encoder.sample_rate != sample_rate:
        raise InputError(
            f"--encoder={path} was trained on audio at {encoder.sample_rate} Hz, and gets "
            f"--sample_rate={sample_rate}: probe it with audio of its own rate."
        )
    return encoder


def is_huggingface(folder: Path) -> bool:
    """Whether a folder holds a model of transformers: its config.json names a model type."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config
