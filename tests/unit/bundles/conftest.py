"""A bundle of a tiny model, and forgers of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.features import (
    NORMALIZE_SETTINGS,
    feature_settings,
    statistics_of,
)
from summarymixing_modules.bundles.manifest import MANIFEST, make_manifest
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.models import ConvFrontEnd1d, CTCModel, TransformerASR
from summarymixing_modules.models.describe import describe


def tiny_model() -> CTCModel:
    frontend = ConvFrontEnd1d(input_size=20, channels=(8, 8))
    size = {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 16, "kernel_size": 3}
    transformer = TransformerASR(29, 8, num_decoder_layers=0, **size)
    return CTCModel(frontend, transformer, 29).eval()


def tiny_content() -> RunContent:
    """What a run of a tiny model with global statistics would give."""
    torch.manual_seed(0)
    model, given = tiny_model(), {"n_mels": 20, "n_fft": 400}
    normalize = InputNormalization(norm_type="global", avoid_padding_norm=True)
    normalize(torch.randn(2, 50, 20) + 3, torch.ones(2), epoch=0)
    weights = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    weights |= {f"normalize.{name}": value for name, value in statistics_of(normalize).items()}
    config = {
        "summarymixing_modules": "0.1.0",
        "sample_rate": 16000,
        "attention_type": "SummaryMixing",
        "mode": "SummaryMixing",
        "streaming": False,
        "averaged_checkpoints": 1,
        "window_seconds": 12.5,
        "tokenizer": "characters",
        "features": feature_settings(Fbank(**given), given),
        "normalize": {name: getattr(normalize, name) for name in NORMALIZE_SETTINGS},
        "model": describe(model),
    }
    return RunContent(config, weights, CharTokenizer(), {"metrics": {"test-clean_wer": 12.345}})


@pytest.fixture
def content() -> RunContent:
    """What a run of a tiny model with global statistics would give."""
    return tiny_content()


@pytest.fixture
def bundle(content: RunContent, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    write_bundle(content, folder)
    return folder


@pytest.fixture
def forge(bundle: Path) -> Callable[..., Path]:
    """Replaces files of the bundle and makes a manifest that fits them, as an attacker would."""

    def replace(**files: bytes) -> Path:
        for name, data in files.items():
            (bundle / name.replace("_", ".")).write_bytes(data)
        held = {p.name: p.read_bytes() for p in bundle.iterdir() if p.name != MANIFEST}
        (bundle / MANIFEST).write_bytes(make_manifest(held))
        return bundle

    return replace


@pytest.fixture
def forge_config(bundle: Path, forge: Callable[..., Path]) -> Callable[..., Path]:
    """Changes ``config.json`` with a function."""

    def change(edit: Callable[[dict[str, Any]], None]) -> Path:
        config = json.loads((bundle / "config.json").read_text())
        edit(config)
        return forge(config_json=json.dumps(config).encode())

    return change
