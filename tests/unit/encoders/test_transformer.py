"""The Transformer encoder with every mixer: padding, chunks, streaming, SpeechBrain's function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder as StockEncoder
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders import TransformerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import UnsupportedByMixer, mixer_names, mixer_spec
from summarymixing_modules.models import TransformerASR

D = 32
FORMS = [
    pytest.param(name, dict(options), id=form)
    for name in mixer_names()
    for form, options in mixer_spec(name).variants.items()
]


def make(name: str, num_layers: int = 2, **options: Any) -> TransformerEncoder:
    torch.manual_seed(0)
    return TransformerEncoder(num_layers, 4, 64, D, attention_type=name, **options).eval()


def padding_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("normalize_before", [True, False])
@pytest.mark.parametrize(("name", "options"), FORMS)
@torch.no_grad()
def test_alone_equals_beside_longer_ones(name: str, options: dict, normalize_before: bool) -> None:
    encoder = make(name, normalize_before=normalize_before, **options)
    x_BTD = torch.randn(2, 40, D)
    beside, _ = encoder(x_BTD, src_key_padding_mask=padding_of(17, 40))
    alone, _ = encoder(x_BTD[:1, :17])
    torch.testing.assert_close(beside[:1, :17], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), FORMS)
@pytest.mark.parametrize(("chunk_size", "left"), [(4, None), (6, 2), (3, 0)])
@torch.no_grad()
def test_streaming_equals_chunked_forward(
    name: str, options: dict, chunk_size: int, left: int | None
) -> None:
    encoder = make(name, normalize_before=left is None, **options)
    config, padding = DynChunkTrainConfig(chunk_size, left), padding_of(22, 15)
    x_BTD = torch.randn(2, 22, D)
    first: Any = encoder.layers[0]
    if not first.self_att.capabilities.streaming:
        context = encoder.make_streaming_context(config)
        with pytest.raises(UnsupportedByMixer, match="Mixers that can: .+"):
            encoder.forward_streaming(x_BTD[:, :chunk_size], context)
        return
    want, _ = encoder(x_BTD, src_key_padding_mask=padding, dynchunktrain_config=config)
    context, chunks = encoder.make_streaming_context(config), []
    for start in range(0, 22, chunk_size):
        part = slice(start, start + chunk_size)
        y_BTD, _ = encoder.forward_streaming(
            x_BTD[:, part], context, src_key_padding_mask=padding[:, part]
        )
        chunks.append(y_BTD)
    torch.testing.assert_close(torch.cat(chunks, 1)[~padding], want[~padding], atol=1e-5, rtol=1e-5)


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


def test_causal_encoder_sees_no_future() -> None:
    encoder = make("SummaryMixing", causal=True)
    x_BTD = torch.randn(1, 9, D, requires_grad=True)
    output = encoder(x_BTD)[0]
    for t in range(9):
        (grad,) = torch.autograd.grad(output[0, t].pow(2).sum(), x_BTD, retain_graph=True)
        seen = grad[0].abs().amax(-1) > 0
        assert seen.tolist() == [i <= t for i in range(9)]


def test_hidden_states_and_layerdrop() -> None:
    encoder = make("SummaryMixing", output_hidden_states=True, layerdrop_prob=0.5)
    x_BTD = torch.randn(2, 9, D)
    output, weights, hidden = encoder(x_BTD)
    assert weights == [None, None] and len(hidden) == 3 and hidden[0] is x_BTD
    torch.testing.assert_close(encoder.norm(hidden[-1]), output)
    torch.manual_seed(1)
    kept = [len(encoder.train()(x_BTD)[1]) for _ in range(200)]
    assert 0.8 < sum(kept) / len(kept) < 1.2


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
