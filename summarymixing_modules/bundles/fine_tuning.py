"""What a fine-tuning starts with: the model of a pre-trained encoder, on the first start and later.

The run keeps a description of its model (``model.json`` in its save_folder): it can go on, be
exported and be used when the encoder has moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.checkpoints import CKPT_PREFIX
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from torch import nn

from summarymixing_modules.bundles.features import assemble_features
from summarymixing_modules.bundles.run import MODEL_FILE
from summarymixing_modules.bundles.ssl_encoder import SSLEncoder, check_architecture
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.asr.fine_tuned import FineTunedModel
from summarymixing_modules.models.describe import build, describe
from summarymixing_modules.models.features.normalization import FixedNormalization

logger = get_logger(__name__)


@dataclass(frozen=True)
class FineTuningStart:
    """What a fine-tuning starts with.

    Attributes:
        model: encoder and head.
        features: samples → features.
        normalize: of features; its statistics do not change.
        encoder: what result.json says about the encoder.
    """

    model: FineTunedModel
    features: nn.Module
    normalize: FixedNormalization
    encoder: dict[str, Any]


def start_fine_tuning(hparams: Mapping[str, Any]) -> FineTuningStart:
    """The model to fine-tune; a run that has checkpoints is compared with what it started from.

    Args:
        hparams: of the recipe; ``encoder`` is a bundle, or, with ``trust_run``,
            a run of one's own.

    Raises:
        InputError: an encoder that cannot be loaded, that is made for another sample rate, or that
            is not the one that this run started from.
    """
    description = Path(hparams["save_folder"]) / MODEL_FILE
    stored = None
    if description.is_file() and any(description.parent.glob(f"{CKPT_PREFIX}+*")):
        stored = json.loads(description.read_text(encoding="utf-8"))
    path = Path(str(hparams["encoder"]))
    if stored is not None and not path.exists():
        logger.warning(f"--encoder={path} is no longer there; going on from the checkpoints.")
        return _again(hparams, stored)
    encoder = _load(hparams, path)
    start = {
        "weights": None if hparams["from_scratch"] else _fingerprint(encoder),
        "from": str(path),
    }
    if stored is not None:
        _compare(stored, encoder, start, hparams)
    if hparams["from_scratch"]:
        encoder = encoder.untrained_copy()
    parts = encoder.encoder
    model = FineTunedModel(
        parts.frontend,
        parts.transformer,
        hparams["output_neurons"],
        hparams["head_size"],
        hparams["head_layers"],
        hparams["head_dropout"],
    )
    config = {key: encoder.config[key] for key in ("sample_rate", "features", "normalize")}
    config |= {"model": describe(model), "start": start}
    if stored is None:
        content = json.dumps(config, indent=2, allow_nan=False) + "\n"
        run_on_main(write_atomically, args=[description, content])
    return _ready(hparams, model, encoder.features, encoder.normalize, start)


def _load(hparams: Mapping[str, Any], path: Path) -> SSLEncoder:
    try:
        encoder = SSLEncoder.from_path(path, hparams["trust_run"])
    except InputError as error:
        raise InputError(f"--encoder={path}: {error}") from None
    if encoder.sample_rate != hparams["sample_rate"]:
        raise InputError(
            f"--encoder={path} is for audio at {encoder.sample_rate} Hz, and this recipe's has "
            f"sample_rate {hparams['sample_rate']}."
        )
    return encoder


def _again(hparams: Mapping[str, Any], stored: Mapping[str, Any]) -> FineTuningStart:
    """The model of a run without its encoder: the checkpoint has the weights and statistics."""
    model = build(stored["model"])
    assert isinstance(model, FineTunedModel)
    features, normalize = assemble_features(stored)
    return _ready(hparams, model, features, normalize, stored["start"])


def _ready(
    hparams: Mapping[str, Any],
    model: FineTunedModel,
    features: nn.Module,
    normalize: Any,
    start: Mapping[str, Any],
) -> FineTuningStart:
    if hparams["freeze_encoder"]:
        model.freeze_encoder()
    told = {"path": start["from"], "weights": start["weights"] or "drawn anew"}
    return FineTuningStart(model, features, normalize, told)


def _compare(
    stored: Mapping[str, Any],
    encoder: SSLEncoder,
    start: Mapping[str, Any],
    hparams: Mapping[str, Any],
) -> None:
    """Raises InputError unless a run goes on from what it started with."""
    folder = Path(hparams["save_folder"]).parent
    with torch.device("meta"):
        began = build(stored["model"])
    assert isinstance(began, AcousticEncoder)
    try:
        check_architecture(encoder.architecture, began.architecture(), str(start["from"]))
    except InputError as error:
        raise InputError(
            f"{folder} was fine-tuned from {stored['start']['from']}: {error} Or give another "
            "--output_folder."
        ) from None
    same = all(stored[key] == encoder.config[key] for key in ("features", "normalize"))
    if not same or stored["start"]["weights"] != start["weights"]:
        raise InputError(
            f"{folder} was fine-tuned from {stored['start']['from']} ("
            f"{_told(stored['start'])}), which is not what --encoder={start['from']} is now ("
            f"{_told(start)}): give the encoder and the --from_scratch that it started with, or "
            "another --output_folder."
        )


def _told(start: Mapping[str, Any]) -> str:
    weights = start["weights"]
    return "weights drawn anew" if weights is None else f"weights {weights[:12]}"


def _fingerprint(encoder: SSLEncoder) -> str:
    """SHA-256 of the weights and statistics of an encoder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
