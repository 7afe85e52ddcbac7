"""The Transformer encoder: SpeechBrain's function, and what its host gives it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder as StockEncoder
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import nn

from summarymixing_modules.encoders import TransformerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import TransformerASR
from tests.tensors import padding_of

D = 32


def make(name: str, num_layers: int = 2, **options: Any) -> TransformerEncoder:
    torch.manual_seed(0)
    return TransformerEncoder(num_layers, 4, 64, D, attention_type=name, **options).eval()


@pytest.mark.parametrize("normalize_before", [True, False])
@torch.no_grad()
def test_equals_speechbrain_with_its_attention(normalize_before: bool) -> None:
    encoder = make("regularMHA", normalize_before=normalize_before)
    stock = StockEncoder(2, 4, 64, d_model=D, normalize_before=normalize_before).eval()
    weights = {
        name.replace("self_att.", "self_att.attention."): tensor
        for name, tensor in stock.state_dict().items()
    }
    encoder.load_state_dict(weights)
    x_BTD, padding = torch.randn(2, 11, D), padding_of(11, 6)
    want = stock(x_BTD, src_key_padding_mask=padding)[0]
    got = encoder(x_BTD, src_key_padding_mask=padding)[0]
    torch.testing.assert_close(got[~padding], want[~padding], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "want"),
    [("SummaryMixing", True), ("regularMHA", True), ("RelPosMHAXL", False), ("RoPEMHA", False)],
)
@torch.no_grad()
def test_host_gives_an_order_where_nothing_else_does(name: str, want: bool) -> None:
    """A Transformer of SummaryMixing alone would give the same frame the same output anywhere."""
    torch.manual_seed(0)
    model = TransformerASR(
        30, 24, D, 4, 2, 0, 64, encoder_module="transformer", attention_type=name
    ).eval()
    assert model.absolute_positions is want
    src = torch.randn(1, 9, 24)
    src[:, 6] = src[:, 2]
    encoded = model.encode(src)
    assert (encoded[:, 6] - encoded[:, 2]).abs().max() > 1e-3
    config = DynChunkTrainConfig(4)
    context = model.make_streaming_context(config)
    parts = [model.encode_streaming(src[:, i : i + 4], context) for i in range(0, 9, 4)]
    whole = model.encode(src, dynchunktrain_config=config)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


def test_host_passes_its_settings_on() -> None:
    model = TransformerASR(
        30, 24, D, 4, 3, 0, 48, 0.2, nn.ReLU, encoder_module="transformer", causal=True
    )
    assert isinstance(model.encoder, TransformerEncoder) and len(model.encoder.layers) == 3
    layer: Any = model.encoder.layers[0]
    assert layer.normalize_before and layer.self_att.causal and layer.dropout1.p == 0.2
    assert isinstance(layer.pos_ffn.ffn[1], nn.ReLU) and layer.pos_ffn.ffn[0].out_features == 48


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="attention_type='cnnonly' leaves a Transformer layer"):
        make("cnnonly")
    with pytest.raises(InputError, match="encoder_module=conformer or branchformer"):
        TransformerASR(
            30, 24, D, 4, 1, 0, 64, encoder_module="transformer", attention_type="cnnonly"
        )
    with pytest.raises(InputError, match="has no option 'heads'"):
        make("SummaryMixing", heads=3)
    with pytest.raises(ValueError, match="no dense src_mask"):
        make("SummaryMixing")(torch.randn(1, 4, D), src_mask=torch.zeros(4, 4))
