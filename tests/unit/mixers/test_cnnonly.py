"""Hosts without a mixer: "CNN only" of arXiv 2307.07421."""

from __future__ import annotations

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import nn

from summarymixing_modules.encoders import (
    BranchformerEncoder,
    BranchformerEncoderLayer,
    ConformerEncoder,
    ConformerEncoderLayer,
)
from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.encoders.layer import Utterances
from summarymixing_modules.mixers import MixerSize, build_mixer, mixer_forms, mixer_spec
from tests.tensors import padding_of

D = 16


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make(host: str) -> MixerEncoder:
    torch.manual_seed(0)
    if host == "conformer":
        return ConformerEncoder(2, D, 32, 2, 7, attention_type="cnnonly")
    return BranchformerEncoder(2, D, 2, 7, csgu_linear_units=32, attention_type="cnnonly")


def test_branchformer_has_the_papers_size() -> None:
    with torch.device("meta"):
        encoder = BranchformerEncoder(18, 512, 8, attention_type="cnnonly")
    assert abs(parameters_of(encoder) / 43.5e6 - 1) < 0.005


def test_conformer_lacks_the_mixer_and_its_norm_and_nothing_else() -> None:
    with torch.device("meta"):
        without = ConformerEncoder(2, 64, 128, 4, attention_type="cnnonly")
        encoder = ConformerEncoder(2, 64, 128, 4, attention_type="RoPEMHA")
    branches = [
        nn.ModuleList([layer.mha_layer, layer.norm1])
        for layer in encoder.layers
        if isinstance(layer, ConformerEncoderLayer)
    ]
    assert parameters_of(without) == parameters_of(encoder) - parameters_of(nn.ModuleList(branches))


def test_branchformer_layer_is_x_plus_cgmlp() -> None:
    torch.manual_seed(0)
    layer = BranchformerEncoderLayer(D, 2, 7, attention_type="cnnonly", csgu_linear_units=32)
    x_BTD, padding = torch.randn(2, 9, D), padding_of(9, 5)
    want = x_BTD + layer.convolution_branch(layer.norm_conv(x_BTD), Utterances(padding))
    assert torch.equal(layer(x_BTD, src_key_padding_mask=padding)[0], want)
    assert not hasattr(layer, "merge_proj") and not hasattr(layer, "norm_mhsa")


def test_conformer_layer_skips_the_mixer() -> None:
    torch.manual_seed(0)
    layer = ConformerEncoderLayer(D, 32, 2, 7, attention_type="cnnonly")
    x_BTD = torch.randn(2, 9, D)
    want = x_BTD + 0.5 * layer.ffn_module1(x_BTD)
    want = want + layer.convolution_module(want, Utterances())
    want = layer.norm2(want + 0.5 * layer.ffn_module2(want))
    assert torch.equal(layer(x_BTD)[0], want)


@pytest.mark.parametrize("host", ["conformer", "branchformer"])
def test_every_parameter_learns_and_padding_does_not_matter(host: str) -> None:
    encoder = make(host)
    x_BTD, padding = torch.randn(2, 13, D), padding_of(13, 6)
    output = encoder(x_BTD, src_key_padding_mask=padding)[0]
    output[~padding].square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    torch.testing.assert_close(output[1:, :6], encoder(x_BTD[1:, :6])[0])


@torch.no_grad()
@pytest.mark.parametrize("host", ["conformer", "branchformer"])
def test_streaming_equals_chunks(host: str) -> None:
    encoder, config = make(host), DynChunkTrainConfig(4, 1)
    x_BTD = torch.randn(2, 14, D)
    context = encoder.make_streaming_context(config)
    got = [encoder.forward_streaming(part, context)[0] for part in x_BTD.split(4, dim=1)]
    want = encoder(x_BTD, dynchunktrain_config=config)[0]
    torch.testing.assert_close(torch.cat(got, 1), want)


def test_causal_conformer_sees_no_future() -> None:
    torch.manual_seed(0)
    encoder = ConformerEncoder(1, D, 32, 2, 7, causal=True, attention_type="cnnonly")
    x_BTD = torch.randn(1, 11, D, requires_grad=True)
    (grad,) = torch.autograd.grad(encoder(x_BTD)[0][0, 4].square().sum(), x_BTD)
    assert grad[0, 5:].abs().max() == 0 and grad[0, 4].abs().max() > 0


def test_nothing_to_merge_nothing_to_set() -> None:
    with pytest.raises(ValueError, match="merge='linear' has nothing to merge"):
        BranchformerEncoderLayer(D, 2, attention_type="cnnonly", merge="linear")
    with pytest.raises(ValueError, match="cnnonly has no option 'mode'"):
        ConformerEncoder(1, D, 32, 2, attention_type="cnnonly", mode="x")


def test_adds_nothing_to_a_host_that_does_not_ask() -> None:
    mixer = build_mixer("cnnonly", MixerSize(D, causal=True))
    x_BTD = torch.randn(2, 5, D)
    assert torch.equal(x_BTD + mixer(x_BTD), x_BTD) and parameters_of(mixer) == 0
    state = mixer.initial_state(2)
    y_BTD, state = mixer.step(x_BTD, state)
    assert torch.equal(x_BTD + y_BTD, x_BTD) and state.memory == ()
    with pytest.raises(ValueError, match="got no frames"):
        mixer(x_BTD[:, :0])


def test_says_that_it_does_not_mix() -> None:
    """Its spec has no form, so no promise of a mixer is tested on it, and nothing is timed."""
    assert not mixer_spec("cnnonly").capabilities.mixes
    assert "cnnonly" not in {form.attention_type for form in mixer_forms()}
    assert mixer_spec("SummaryMixing").capabilities.mixes
