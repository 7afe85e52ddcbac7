"""The base of the models as a model, and the one with a head for fine-tuning."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from summarymixing_modules.models import ConvFrontEnd1d, CTCModel, TransformerASR
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.asr.fine_tuned import FineTunedModel
from summarymixing_modules.models.describe import build, describe
from summarymixing_modules.models.features.normalization import FixedNormalization

SIZE: dict[str, Any] = {"d_model": 8, "nhead": 2, "num_encoder_layers": 2, "d_ffn": 16}
X_BTF, LENGTHS_B = torch.randn(2, 40, 20), torch.tensor([40, 25])


def parts(**options: Any) -> tuple[ConvFrontEnd1d, TransformerASR]:
    arguments = {"num_decoder_layers": 0, "kernel_size": 3, **SIZE, **options}
    return ConvFrontEnd1d(20, (8, 8)), TransformerASR(12, 8, **arguments)


@pytest.mark.parametrize("module", ["conformer", "branchformer", "transformer", "contextnet"])
def test_hidden_states_end_in_what_encode_gives(module: str) -> None:
    options: dict[str, Any] = {"encoder_module": module}
    if module == "contextnet":
        small = {"conv_channels": [8, 8], "num_layers": 1, "inner_dim": 2}
        options |= {"attention_type": "cnnonly", "contextnet_options": small}
    encoder = AcousticEncoder(*parts(**options)).eval()
    with torch.inference_mode():
        hidden = encoder.hidden_states(X_BTF, LENGTHS_B)
        output_BTD, lengths_B = encoder.encode(X_BTF, LENGTHS_B)
    assert torch.equal(hidden.output_BTD, output_BTD)
    assert torch.equal(hidden.lengths_B, lengths_B)
    stages = 5 if module == "contextnet" else 3
    assert len(hidden.states) == stages
    assert encoder.transformer.encoder.output_hidden_states is False


def test_an_encoder_that_returns_its_states_anyway_keeps_doing_so() -> None:
    encoder = AcousticEncoder(*parts(output_hidden_states=True, layerdrop_prob=0.9)).train()
    hidden = encoder.hidden_states(X_BTF, LENGTHS_B)
    assert len(hidden.states) == 3
    assert encoder.transformer.encoder.output_hidden_states is True
    assert encoder.transformer.encoder.layerdrop_prob == 0.9


def test_architecture_has_the_names_of_the_flags() -> None:
    options = {"attention_type": "SummaryMixing", "mixer_options": {"mode": "SummaryMixing-lite"}}
    architecture = AcousticEncoder(*parts(**options)).architecture()
    assert architecture["mode"] == "SummaryMixing-lite" and architecture["d_model"] == 8
    assert "mode" not in AcousticEncoder(*parts(attention_type="RoPEMHA")).architecture()


def test_both_are_described() -> None:
    for model in (AcousticEncoder(*parts()), FineTunedModel(*parts(), 12, 6, 2, 0.5)):
        again = build(json.loads(json.dumps(describe(model))))
        assert describe(again) == describe(model)
        again.load_state_dict(model.state_dict(), strict=True)


def test_the_head_is_that_of_the_study() -> None:
    model = FineTunedModel(*parts(), 29)
    names = [type(layer).__name__ for layer in model.output]
    block = ["Linear", "LayerNorm", "LeakyReLU"]
    assert names == [*block, "Dropout", *block, "Dropout", *block, "Linear"]
    linears = [layer for layer in model.output if isinstance(layer, nn.Linear)]
    shapes = [(layer.in_features, layer.out_features) for layer in linears]
    assert shapes == [(8, 1280), (1280, 1280), (1280, 1280), (1280, 29)]
    assert isinstance(model, CTCModel) and {type(m) for m in model.output} >= {nn.Dropout}
    log_probs_BTV, lengths_B = model(X_BTF, LENGTHS_B)
    assert log_probs_BTV.shape == (2, 10, 29) and lengths_B.tolist() == [10, 7]


@pytest.mark.parametrize("module", ["conformer", "contextnet"])
def test_a_frozen_encoder_stays_bit_identical(module: str) -> None:
    options: dict[str, Any] = {"encoder_module": module, "dropout": 0.5}
    if module == "contextnet":  # batch norm has moving statistics
        small = {"conv_channels": [8, 8], "num_layers": 1, "inner_dim": 2}
        options |= {"attention_type": "cnnonly", "contextnet_options": small}
    model = FineTunedModel(*parts(**options), 12, 6, 1)
    model.freeze_encoder()
    before = copy.deepcopy(model.state_dict())
    model.train()
    assert model.training and model.output.training and not model.transformer.training
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(X_BTF, LENGTHS_B)[0][..., 0].sum().backward()
        optimizer.step()
    after = model.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"output"}
    assert torch.equal(*(model.encode(X_BTF, LENGTHS_B)[0] for _ in range(2)))


def test_fixed_statistics_stay_fixed() -> None:
    normalize = FixedNormalization(norm_type="global", avoid_padding_norm=True)
    normalize.glob_mean, normalize.glob_std = torch.ones(20), torch.full((20,), 2.0)
    normalize.train()
    y_BTF = normalize(X_BTF, LENGTHS_B / 40, epoch=0)
    torch.testing.assert_close(y_BTF[0], (X_BTF[0] - 1) / 2)
    assert torch.equal(y_BTF[1, 25:], X_BTF[1, 25:])
    assert normalize.glob_mean.tolist() == [1.0] * 20 and not normalize.training
    assert normalize.double().glob_std.dtype == torch.float64
