"""Probes: encoders frozen for good or tuned, a mean to begin with, every head blind to padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import HiddenStates
from summarymixing_modules.probing.encoder import FrozenEncoder, TunedEncoder
from summarymixing_modules.probing.heads import (
    ContextNetCTCHead,
    LinearCTCHead,
    PooledLinearHead,
    PooledRecurrentHead,
    RecurrentCTCHead,
)
from summarymixing_modules.probing.probe import Probe, WeightedSum, probe_rates
from summarymixing_modules.probing.speaker_heads import EmbeddedClassHead, SpeakerHead

D, K = 6, 5
ECAPA = {"channels": [16, 16, 16, 16, 24], "embedding_size": 7}
XVECTOR = {"channels": [8, 8, 8, 8, 12], "embedding_size": 7}
FRAME_HEADS: dict[str, Callable[[], nn.Module]] = {
    "bilstm": lambda: RecurrentCTCHead(D, K, hidden_size=4),
    "contextnet": lambda: ContextNetCTCHead(D, K, 8, 2, conv_channels=[8, 8], num_layers=2),
    "linear": lambda: LinearCTCHead(D, K, hidden_size=4),
}
POOLED_HEADS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: PooledLinearHead(D, K),
    "bilstm": lambda: PooledRecurrentHead(D, K, hidden_size=4),
    "ecapa": lambda: EmbeddedClassHead(D, K, **ECAPA),
    "speaker ecapa": lambda: SpeakerHead(D, K, **ECAPA),
    "speaker xvector": lambda: SpeakerHead(D, K, "xvector", **XVECTOR),
}


class FakeEncoder(nn.Module):
    """Two layers with dropout and batch norm, which training would change."""

    sample_rate = 16000

    def __init__(self, widths: tuple[int, ...] = (D, D)) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1, width) for width in widths)
        self.norm = nn.BatchNorm1d(widths[-1])
        self.dropout = nn.Dropout(0.5)

    def forward(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        frames_BT1 = samples_BL.unfold(1, 160, 160).mean(dim=-1, keepdim=True)
        states = tuple(self.dropout(layer(frames_BT1)) for layer in self.layers)
        self.norm(states[-1].flatten(0, 1))
        return HiddenStates(states, states[-1], lengths_B // 160)


@pytest.mark.parametrize("name", FRAME_HEADS)
def test_heads_of_frames_are_blind_to_padding(name: str) -> None:
    torch.manual_seed(0)
    head = FRAME_HEADS[name]().eval()
    x_BTD, lengths_B = torch.randn(3, 40, D), torch.tensor([40, 23, 1])
    x_BTD[1, 23:], x_BTD[2, 1:] = 1e3, -50.0
    together_BTV = head(x_BTD, lengths_B)
    for row, length in enumerate(lengths_B.tolist()):
        alone_TV = head(x_BTD[row : row + 1, :length], lengths_B[row : row + 1])[0]
        torch.testing.assert_close(together_BTV[row, :length], alone_TV, atol=1e-5, rtol=1e-5)
    assert together_BTV.shape == (3, 40, K)
    torch.testing.assert_close(together_BTV.exp().sum(-1)[0], torch.ones(40))


@pytest.mark.parametrize("name", POOLED_HEADS)
def test_pooled_heads_are_blind_to_padding(name: str) -> None:
    torch.manual_seed(0)
    head = POOLED_HEADS[name]().eval()
    x_BTD, lengths_B = torch.randn(3, 40, D), torch.tensor([40, 23, 9])
    x_BTD[1, 23:], x_BTD[2, 9:] = 1e3, -50.0
    together_BK = head(x_BTD, lengths_B)
    for row, length in enumerate(lengths_B.tolist()):
        alone_K = head(x_BTD[row : row + 1, :length], lengths_B[row : row + 1])[0]
        torch.testing.assert_close(together_BK[row], alone_K, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", POOLED_HEADS)
def test_training_does_not_see_padding(name: str) -> None:
    """More padding: same output, same gradient, same running statistics."""

    def trained(frames: int) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        head = POOLED_HEADS[name]().train()
        for module in head.modules():
            if isinstance(module, nn.LSTM):
                module.dropout = 0.0  # drawn for padded frames, too
        x_BTD = torch.zeros(3, frames, D)
        x_BTD[:, :20] = torch.randn(3, 20, D, generator=torch.Generator().manual_seed(1))
        y_BK = head(x_BTD, torch.tensor([20, 12, 17]))
        y_BK.square().sum().backward()
        gradients = [p.grad for p in head.parameters() if p.grad is not None]
        return y_BK.detach(), *gradients, *(b.float() for b in head.buffers())

    for short, long in zip(trained(20), trained(33), strict=True):
        torch.testing.assert_close(short, long, atol=1e-4, rtol=1e-3)


def test_one_utterance_can_be_trained_on() -> None:
    head = SpeakerHead(D, K, **ECAPA).train()
    embedding_BE = head(torch.randn(1, 30, D), torch.tensor([30]))
    assert torch.isfinite(embedding_BE).all()
    cosines_BK = head.cosines(embedding_BE)
    assert cosines_BK.shape == (1, K) and bool((cosines_BK.abs() <= 1 + 1e-5).all())


def test_weights_begin_as_a_mean_and_sum_up_to_one() -> None:
    weighted = WeightedSum(3)
    states = [torch.full((1, 2, 2), float(n)) for n in range(3)]
    torch.testing.assert_close(weighted(states), torch.ones(1, 2, 2))
    with torch.no_grad():
        weighted.weights.copy_(torch.tensor([0.0, 1.0, 2.0]))
    shares = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    torch.testing.assert_close(weighted(states), (shares * torch.arange(3)).sum().expand(1, 2, 2))
    assert sum(weighted.shares()) == pytest.approx(1)
    with pytest.raises(InputError, match="2 hidden states and 3 layer weights"):
        weighted(states[:2])


def test_a_frozen_encoder_stays_frozen() -> None:
    encoder = FrozenEncoder(FakeEncoder())
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    digest = encoder.digest()
    probe = nn.ModuleDict({"encoder": encoder, "probe": Probe(2, PooledLinearHead(D, K))}).train()
    assert not any(module.training for module in encoder.modules())
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.1)
    for _ in range(3):
        hidden = encoder(torch.randn(2, 1600), torch.tensor([1600, 800]))
        probe["probe"](hidden).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(before[n], tensor) for n, tensor in encoder.state_dict().items())
    assert encoder.digest() == digest
    assert all(p.grad is not None for p in probe["probe"].parameters())
    encoder.encoder.norm.running_mean += 1e-3
    assert encoder.digest() != digest


def test_a_tuned_encoder_learns_all_that_its_states_depend_on() -> None:
    encoder = TunedEncoder(FakeEncoder())
    assert not any(parameter.requires_grad for parameter in encoder.encoder.norm.parameters())
    modules = nn.ModuleDict({"encoder": encoder, "model": Probe(2, PooledLinearHead(D, K))}).train()
    rates = {key: 0.1 for key in ("lr", "weights_lr", "encoder_lr")}
    factors = {f"{part}annealing_factor": 0.5 for part in ("", "weights_", "encoder_")}
    settings = {"improvement_threshold": 0.0025, "final_lr": None, "freeze_encoder": False}
    settings["weight_decay"] = 0.0
    optimizers = probe_rates(modules, rates | factors | settings).optimizers(False)
    assert list(optimizers) == ["head", "weights", "encoder"]
    samples_BL, lengths_B = torch.randn(2, 1600), torch.tensor([1600, 800])
    one, other = encoder(samples_BL, lengths_B), encoder(samples_BL, lengths_B)
    assert not torch.equal(one.states[0], other.states[0])  # dropout
    modules["model"](one).square().sum().backward()
    before = {name: tensor.clone() for name, tensor in encoder.encoder.layers.named_parameters()}
    for optimizer in optimizers.values():
        optimizer.step()
    for name, tensor in encoder.encoder.layers.named_parameters():
        assert not torch.equal(before[name], tensor)


def test_layers_of_different_widths_are_told() -> None:
    with pytest.raises(InputError, match="6, 8 features"):
        FrozenEncoder(FakeEncoder((6, 8)))


@pytest.mark.parametrize(
    ("embedder", "channels", "message"),
    [
        ("ecapa", [16, 16, 16, 12, 24], "multiples of 8"),
        ("xvector", [8, 8], "give five"),
        ("dvector", None, "use one of ecapa, xvector"),
    ],
)
def test_bad_sizes_are_told(embedder: str, channels: list[int] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpeakerHead(D, K, embedder, channels)


def test_the_pooled_lstm_is_as_wide_as_the_encoder() -> None:
    """MP3S on SLURP: LSTM, Linear to the encoder's width, mean, Linear."""
    head, x_BTD = PooledRecurrentHead(D, K), torch.randn(2, 9, D)
    lstm = nn.LSTM(D, D, 2, batch_first=True, bidirectional=True)
    lstm.load_state_dict(head.recurrent.lstm.state_dict())
    want_BK = head.output(head.projection(lstm(x_BTD)[0]).mean(1))
    torch.testing.assert_close(head.train()(x_BTD, torch.tensor([9, 9])), want_BK)
    assert head.projection.out_features == D and head.output.bias is None


def test_ecapa_has_the_attention_of_mp3s() -> None:
    network = EmbeddedClassHead(D, K, **ECAPA).embedder.network
    assert network.asp.tdnn.conv.layer.conv.out_channels == 64


def test_the_head_alone_decays() -> None:
    hparams = dict.fromkeys(("lr", "weights_lr", "weight_decay"), 0.5)
    factors = dict.fromkeys(("annealing_factor", "weights_annealing_factor"), 0.8)
    more = {"final_lr": None, "improvement_threshold": 0.0, "freeze_encoder": True}
    modules = nn.ModuleDict({"model": Probe(2, PooledLinearHead(D, K))})
    rates = probe_rates(modules, {**hparams, **factors, **more})
    decays = {n: o.param_groups[0]["weight_decay"] for n, o in rates.optimizers(False).items()}
    assert decays == {"head": 0.5, "weights": 0}
