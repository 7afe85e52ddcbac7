"""TransformerASR, front ends and the CTC model."""

from __future__ import annotations

import copy

import pytest
import torch
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Mixer
from summarymixing_modules.models import (
    ConvFrontEnd1d,
    ConvFrontEnd2d,
    CTCModel,
    TransformerASR,
)
from summarymixing_modules.models.asr.ctc import feature_lengths
from summarymixing_modules.ops.positions import sine_positions


def make(**options: object) -> TransformerASR:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "nhead": 4, "num_encoder_layers": 2, "d_ffn": 64, "kernel_size": 7}
    return TransformerASR(30, 24, **{"num_decoder_layers": 1, **sizes, **options}).eval()


def test_mixers_keep_their_initialisation() -> None:
    """SpeechBrain's TransformerASR draws every matrix again; a mixer's stay within its bound."""
    model = TransformerASR(30, 24, d_model=256, nhead=4, num_encoder_layers=1, num_decoder_layers=0)
    layer = model.encoder.layers[0]
    mixer = layer.mha_layer
    bound = (256 / 4) ** -0.5
    assert isinstance(mixer, Mixer)
    assert 0.95 * bound < mixer.input_proj.weight.abs().max() <= bound
    xavier = (2 / (256 + 2048)) ** 0.5
    drawn = layer.ffn_module1[1].ffn[0].weight
    assert abs(drawn.std().item() / xavier - 1) < 0.05


@pytest.mark.parametrize("name", ["SummaryMixing", "regularMHA", "RelPosMHAXL"])
@torch.no_grad()
def test_decoder_sees_no_padding_and_no_future(name: str) -> None:
    model = make(attention_type=name)
    src, tgt = torch.randn(2, 20, 24), torch.randint(1, 30, (2, 6))
    share = torch.tensor([1.0, 13 / 20])
    encoded, decoded = model(src, tgt, share)
    alone, decoded_alone = model(src[1:, :13], tgt[1:])
    torch.testing.assert_close(encoded[1:, :13], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded[1:], decoded_alone, atol=1e-5, rtol=1e-5)
    tgt[:, 4] = 3
    torch.testing.assert_close(model(src, tgt, share)[1][:, :4], decoded[:, :4])
    step, _ = model.decode(tgt, encoded, share * 20)
    torch.testing.assert_close(step, model(src, tgt, share)[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", [None, True])
@torch.no_grad()
def test_streaming_keeps_its_place(positions: bool | None) -> None:
    model = make(num_decoder_layers=0, absolute_positions=positions)
    src, config = torch.randn(2, 21, 24), DynChunkTrainConfig(8, 1)
    want = model.encode(src, dynchunktrain_config=config)
    context = model.make_streaming_context(config)
    got = [model.encode_streaming(src[:, i : i + 8], context) for i in range(0, 21, 8)]
    torch.testing.assert_close(torch.cat(got, 1), want, atol=1e-5, rtol=1e-5)
    assert context.position == 21


def test_hidden_states() -> None:
    encoded, hidden = make(num_decoder_layers=0, output_hidden_states=True).encode(
        torch.randn(1, 9, 24)
    )
    assert encoded.shape == (1, 9, 32) and len(hidden) == 3


def test_positions_of_any_length_and_offset() -> None:
    from speechbrain.lobes.models.transformer.Transformer import PositionalEncoding

    stock = PositionalEncoding(16, 50)(torch.zeros(1, 50, 16))[0]
    torch.testing.assert_close(sine_positions(50, 16), stock, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sine_positions(20, 16, 30), stock[30:], atol=1e-5, rtol=1e-5)
    assert sine_positions(5000, 16).shape == (5000, 16)
    with pytest.raises(ValueError, match="even number of features"):
        sine_positions(5, 3)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown encoder_module 'zipformer'"):
        make(encoder_module="zipformer")
    with pytest.raises(ValueError, match="no Branchformer is causal"):
        make(encoder_module="branchformer", causal=True)
    with pytest.raises(ValueError, match="has no option 'heads'"):
        make(mixer_options={"heads": 3})


@pytest.mark.parametrize(
    "front_end",
    [
        ConvFrontEnd1d(20, (12, 10)),
        ConvFrontEnd2d(20, (4, 3)),
        ConvFrontEnd1d(20, (12, 10), padding_mode="reflect"),
        ConvFrontEnd2d(20, (4, 3), padding_mode="reflect"),
    ],
)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 50])
@torch.no_grad()
def test_front_ends_see_no_padding(front_end: nn.Module, length: int) -> None:
    front_end = copy.deepcopy(front_end).eval()
    x_BTF = torch.randn(2, 60, 20)
    beside, lengths = front_end(x_BTF, torch.tensor([length, 60]))
    alone, own = front_end(x_BTF[:1, :length], torch.tensor([length]))
    assert lengths.tolist() == [alone.shape[1], 15] and own.tolist() == [alone.shape[1]]
    assert alone.shape[-1] == front_end.output_size
    torch.testing.assert_close(beside[:1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_reflecting_front_end_is_speechbrains() -> None:
    stock = ConvolutionFrontEnd(
        (8, 10, 20),
        num_blocks=2,
        num_layers_per_block=1,
        out_channels=[4, 3],
        kernel_sizes=[3, 3],
        strides=[2, 2],
        residuals=[False, False],
    ).eval()
    own = ConvFrontEnd2d(20, (4, 3), padding_mode="reflect").eval()
    for index in range(2):
        block = getattr(stock, f"convblock_{index}").convs
        own.convs[index].weight.copy_(block.conv_0.conv.weight.mT)  # over frequency and time there
        own.convs[index].bias.copy_(block.conv_0.conv.bias)
        own.norms[index].load_state_dict(block.norm_0.norm.state_dict())
    x_BTF = torch.randn(2, 31, 20)
    got_BTD, _ = own(x_BTF, torch.tensor([31, 31]))
    torch.testing.assert_close(got_BTD, stock(x_BTF).flatten(2), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="padding_mode=zeros"):
        own.initial_state(1)
    with pytest.raises(InputError, match="zeros or reflect"):
        ConvFrontEnd1d(20, padding_mode="same")


@pytest.mark.parametrize(
    ("attention_type", "sine"), [("SummaryMixing", True), ("RoPEMHA", False), ("RelPosMHAXL", False)]
)
def test_sine_positions_where_the_mixer_brings_none(attention_type: str, sine: bool) -> None:
    model = make(attention_type=attention_type, absolute_positions="where_none")
    assert model.absolute_positions is sine
    with pytest.raises(InputError, match="where_none"):
        make(absolute_positions="somewhere")


def test_front_end_of_the_papers_has_640_features() -> None:
    assert ConvFrontEnd2d(80, (64, 32)).output_size == 640


@torch.no_grad()
def test_ctc_model_from_samples() -> None:
    """The whole model, from samples on: an utterance scores the same alone and in a batch."""
    from speechbrain.lobes.features import Fbank

    features = Fbank(n_mels=24)
    model = CTCModel(ConvFrontEnd1d(24, (24, 24)), make(num_decoder_layers=0), 7).eval()
    samples = torch.randn(2, 24_000)
    samples[0, 9_137:] = 0.0

    def score(samples_BL: Tensor, real: list[int]) -> tuple[Tensor, Tensor]:
        x_BTF = features(samples_BL)
        return model(x_BTF, feature_lengths(torch.tensor(real), 160, x_BTF.shape[1]))

    beside, lengths = score(samples, [9_137, 24_000])
    alone, own = score(samples[:1, :9_137], [9_137])
    assert lengths[0] == own[0] == alone.shape[1]
    torch.testing.assert_close(beside[:1, : own[0]], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.exp().sum(-1), torch.ones(1, int(own[0])))
