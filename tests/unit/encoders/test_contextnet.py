"""ContextNet: SpeechBrain's function, without padding in it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from speechbrain.lobes.models.ContextNet import ContextNet as StockContextNet
from speechbrain.nnet.CNN import Conv1d
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from summarymixing_modules.encoders import ContextNet, ContextNetEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import ConvFrontEnd1d, CTCModel, TransformerASR
from summarymixing_modules.training.statistics import MovingStatistics
from tests.tensors import padding_of

F, D = 12, 16
SMALL: dict[str, Any] = {"conv_channels": [8, 10], "num_blocks": 2, "num_layers": 2, "inner_dim": 3}


def norms_of(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, _NormBase)]


def trained(network: nn.Module) -> nn.Module:
    """In eval mode, with statistics and biases for which a zero does not stay a zero."""
    for norm in norms_of(network):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        nn.init.normal_(norm.bias)
    return network.eval()


def make(strides: tuple[int, int] = (1, 1), kernel_size: int = 3) -> ContextNet:
    torch.manual_seed(0)
    network = ContextNet(F, D, kernel_size=kernel_size, strides=strides, dropout=0.0, **SMALL)
    trained(network)
    return network


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@torch.no_grad()
def test_equals_speechbrain_but_for_the_edges(strides: tuple[int, int]) -> None:
    network = make(strides)
    stock = StockContextNet((1, 8, F), D, strides=strides, dropout=0.0, **SMALL).eval()
    stock.load_state_dict(network.state_dict())
    x_BTF = torch.randn(2, 21, F)
    assert not torch.allclose(stock(x_BTF), network(x_BTF)[0])
    for module in stock.modules():
        if isinstance(module, Conv1d):
            module.padding_mode = "constant"
    torch.testing.assert_close(network(x_BTF)[0], stock(x_BTF), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 12])
@torch.no_grad()
def test_alone_equals_beside_longer_ones(strides: tuple[int, int], length: int) -> None:
    network = make(strides, kernel_size=5)
    x_BTF = torch.randn(2, 30, F)
    x_BTF[0, length:] = 1e3
    beside, padding = network(x_BTF, padding_of(length, 30))
    alone, none = network(x_BTF[:1, :length])
    real = -(-length // (strides[0] * strides[1]))
    assert none is None and alone.shape == (1, real, D)
    assert padding is not None and (~padding).sum(1).tolist() == [real, beside.shape[1]]
    torch.testing.assert_close(beside[:1, :real], alone, atol=1e-5, rtol=1e-5)


def test_padding_does_not_get_into_the_statistics() -> None:
    """In training an utterance depends on its batch, but not on how far the batch is padded."""
    short = make((2, 1)).train()
    long = copy.deepcopy(short)
    x_BTF = torch.randn(3, 10, F)
    longer_BTF = torch.cat([x_BTF, torch.full((3, 14, F), 1e3)], dim=1)
    lengths = torch.tensor([10, 7, 3])
    want, padding = short(x_BTF, torch.arange(10) >= lengths[:, None])
    got, _ = long(longer_BTF, torch.arange(24) >= lengths[:, None])
    assert padding is not None
    real = ~padding
    torch.testing.assert_close(got[:, :5][real], want[real], atol=1e-5, rtol=1e-5)
    for network, output in ((short, want), (long, got[:, :5])):
        output[real].pow(2).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    for (name, a), b in zip(short.named_parameters(), long.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-3, msg=name)
    for a_norm, b_norm in zip(norms_of(short), norms_of(long), strict=True):
        assert a_norm.num_batches_tracked == b_norm.num_batches_tracked == 1
        for name in ("running_mean", "running_var"):
            a, b = getattr(a_norm, name), getattr(b_norm, name)
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_bad_batch_can_be_undone() -> None:
    """The Brain finds the running statistics and takes NaN out of them."""
    network = make().train()
    before = [buffer.clone() for buffer in network.buffers()]
    statistics = MovingStatistics(network)
    statistics.snapshot()
    network(torch.full((2, 10, F), math.nan))
    assert any(buffer.isnan().any() for buffer in network.buffers())
    statistics.restore()
    for buffer, old in zip(network.buffers(), before, strict=True):
        torch.testing.assert_close(buffer, old)


def test_training_sees_the_batch() -> None:
    """What batch norm is: with other utterances beside it, an utterance comes out differently."""
    network = make().train()
    x_BTF = torch.randn(2, 10, F)
    assert (network(x_BTF)[0][:1] - network(x_BTF[:1])[0]).abs().max() > 1e-2


def test_starts_with_statistics_of_nothing() -> None:
    network = ContextNet(F, D, **{**SMALL, "strides": [1, 1]})
    norms = norms_of(network)
    assert len(norms) == 2 + 2 * (2 + 2)
    for norm in norms:
        assert norm.running_mean.abs().max() == 0 and (norm.running_var == 1).all()
        assert norm.num_batches_tracked == 0


def test_sizes() -> None:
    """SpeechBrain's defaults: 32.2M parameters from 80 mels, 32.4M as an encoder of width 640."""
    network, encoder = ContextNet(80), ContextNetEncoder()
    assert sum(p.numel() for p in network.parameters()) == 32_235_708
    assert sum(p.numel() for p in encoder.parameters()) == 32_382_588
    convs: list[Any] = [network.get_submodule(f"block_{i}.reduced_cov.0.conv") for i in range(21)]
    assert [conv.out_channels for conv in convs] == 10 * [256] + 11 * [512]
    assert [i for i, conv in enumerate(convs) if conv.stride == (2,)] == [2, 6, 13]


def test_hidden_states() -> None:
    encoder = ContextNetEncoder(D, dropout=0.0, output_hidden_states=True, **SMALL)
    x_BTD = torch.randn(2, 9, D)
    output, weights, hidden = encoder(x_BTD, src_key_padding_mask=padding_of(9, 4))
    assert hidden[0] is x_BTD and [h.shape[-1] for h in hidden] == [D, 8, 8, 10, D]
    assert weights == [None] * 4
    torch.testing.assert_close(encoder.norm(hidden[-1]), output)


def small_model(**options: Any) -> TransformerASR:
    torch.manual_seed(0)
    small = {name: value for name, value in SMALL.items() if name != "num_blocks"}
    given = {"attention_type": "cnnonly", "contextnet_options": small, **options}
    return TransformerASR(
        30, 24, 32, 4, 2, 1, 64, encoder_module="contextnet", dropout=0.0, **given
    )


@torch.no_grad()
def test_hosted_behind_a_front_end() -> None:
    """TransformerASR and CTCModel: frames are divided by 4, by the front end alone."""
    model = CTCModel(ConvFrontEnd1d(20, (24, 24)), small_model(), 7)
    trained(model)
    x_BTF = torch.randn(2, 60, 20)
    beside, lengths = model(x_BTF, torch.tensor([21, 60]))
    alone, own = model(x_BTF[:1, :21], torch.tensor([21]))
    assert lengths.tolist() == [6, 15] and own.tolist() == [6] and beside.shape == (2, 15, 7)
    torch.testing.assert_close(beside[:1, :6], alone, atol=1e-5, rtol=1e-5)
    encoded, decoded = model.transformer(torch.randn(2, 11, 24), torch.randint(1, 30, (2, 5)))
    assert encoded.shape == (2, 11, 32) and decoded.shape == (2, 5, 32)


def test_keeps_its_initialisation() -> None:
    """SpeechBrain draws a block's matrices Kaiming-normal; TransformerASR leaves them so."""
    model = small_model(contextnet_options={"num_layers": 1})
    weight = model.encoder.get_parameter("network.block_1.reduced_cov.0.conv.weight")
    kaiming = (2 / (256 * 3)) ** 0.5
    assert abs(weight.std().item() / kaiming - 1) < 0.02


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="ContextNet has no mixer.*attention_type=cnnonly"):
        small_model(attention_type="SummaryMixing", mixer_options={"mode": "SummaryMixing-lite"})
    with pytest.raises(InputError, match="no ContextNet is causal"):
        small_model(causal=True)
    with pytest.raises(InputError, match="layerdrop_prob=0.1 cannot be had"):
        small_model(layerdrop_prob=0.1)
    with pytest.raises(InputError, match="mixer_options=.*have no use"):
        small_model(mixer_options={"mode": "SummaryMixing-lite"})
    with pytest.raises(InputError, match="contextnet_options has no 'strides'"):
        small_model(contextnet_options={"strides": [2, 2]})
    with pytest.raises(InputError, match="conv_channels has 1 values.*num_blocks=2"):
        small_model(contextnet_options={"conv_channels": [8]})
    with pytest.raises(InputError, match="kernel_size=4 of ContextNet must be odd"):
        small_model(contextnet_options={"kernel_size": 4})
    model = small_model()
    with pytest.raises(InputError, match="neither chunks"):
        model.encode(torch.randn(1, 8, 24), dynchunktrain_config=DynChunkTrainConfig(4))
    with pytest.raises(InputError, match="neither chunks, streaming"):
        model.make_streaming_context(DynChunkTrainConfig(4))
    with pytest.raises(ValueError, match="neither src_mask nor pos_embs"):
        model.encoder(torch.randn(1, 8, 32), src_mask=torch.zeros(8, 8))
