"""Descriptions that ask for more than there are weights for, and weights that are no numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from summarymixing_modules.bundles import BundleError, SSLEncoder, load_bundle
from summarymixing_modules.bundles.limits import build_within
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.mixers import mixer_names
from summarymixing_modules.models import ConvFrontEnd1d, CTCModel, TransformerASR
from summarymixing_modules.models.describe import describe

Forge = Callable[..., Path]

#: What is asked for, by keys of the configuration, and what is said about it.
HOSTILE: dict[str, tuple[list[str], Any, str]] = {
    "2,000 layers": (["transformer", "num_encoder_layers"], 2000, "larger model than the weights"),
    "10^6 layers": (["transformer", "num_encoder_layers"], 10**6, "num_encoder_layers 1000000"),
    "wide": (["transformer", "d_ffn"], 10**9, "d_ffn 1000000000"),
    "not finite": (["transformer", "dropout"], float("inf"), "config.json is not JSON"),
    "many decoders": (["transformer", "num_decoder_layers"], 4000, "larger model"),
    "many convolutions": (["frontend", "channels"], [8] * 10**5, "larger model"),
    "n_fft": (["features", "n_fft"], 10**9, "n_fft 1e.09, and at most 65536"),
    "n_mels": (["features", "n_mels"], 10**9, "n_mels 1e.09, and at most 1024"),
    "context": (["features", "left_frames"], 10**6, "left_frames 1e.06"),
    "window": (["features", "win_length"], 10**9, "win_length"),
}


@pytest.mark.parametrize(("keys", "value", "message"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("load", [load_bundle, SSLEncoder.from_bundle])
def test_what_the_weights_are_not_for_is_refused_at_once(
    load: Callable[[Path], object], keys: list[str], value: Any, message: str, forge_config: Forge
) -> None:
    def edit(config: dict[str, Any]) -> None:
        part, key = keys
        if part == "features":
            config["features"][key] = value
        else:
            config["model"]["arguments"][part]["arguments"][key] = value

    folder = forge_config(edit)
    started = time.perf_counter()
    with pytest.raises(BundleError, match=message):
        load(folder)
    assert time.perf_counter() - started < 5  # it is some tenths; a hang is what is looked for


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
@pytest.mark.parametrize("attention_type", mixer_names())
def test_every_model_fits_its_own_weights(attention_type: str, encoder_module: str) -> None:
    torch.manual_seed(0)
    size = {"d_model": 16, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 32, "kernel_size": 3}
    model = CTCModel(
        ConvFrontEnd1d(input_size=20, channels=(8, 8)),
        TransformerASR(
            29,
            8,
            num_decoder_layers=0,
            encoder_module=encoder_module,
            csgu_linear_units=32,
            attention_type=attention_type,
            **size,
        ),
        29,
    )
    built = build_within(describe(model), model.state_dict())
    assert built.state_dict().keys() == model.state_dict().keys()
    nn.Linear(1000, 1000)  # the limit has ended


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.output.weight", "normalize.glob_mean"])
def test_weights_that_are_no_numbers(
    name: str, value: float, content: RunContent, forge: Forge
) -> None:
    tensors = {key: tensor.clone() for key, tensor in content.tensors.items()}
    tensors[name].view(-1)[3] = value
    with pytest.raises(BundleError, match=f"NaN or infinity, in {name}"):
        load_bundle(forge(model_safetensors=safetensors.torch.save(tensors)))
