"""SummaryMixing against its textbook form in float64, its sizes, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from summarymixing_modules import SummaryMixing
from summarymixing_modules.bench.measure import kept_bytes
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerSize, build_mixer
from summarymixing_modules.mixers.layers import BlockLinear, make_activation
from summarymixing_modules.mixers.naive import naive_summary_mixing
from summarymixing_modules.mixers.summary_options import EXPDECAY, FAST, FULL, LITE, MODES
from tests.tensors import padding_of, relative_error

D = 24
CHUNKS = [(None, None), (1, None), (4, None), (4, 0), (4, 2), (5, 1), (16, 3), (500, 1)]
FORMS = [
    (FULL, 1, True),
    (FULL, 4, False),
    (FULL, 4, True),
    (LITE, 1, False),
    (LITE, 4, False),
    (FAST, 1, False),
    (EXPDECAY, 1, True),
    (EXPDECAY, 4, False),
]


@pytest.mark.parametrize(("mode", "nhead", "layernorm"), FORMS)
@pytest.mark.parametrize(("chunk_size", "left"), CHUNKS)
@pytest.mark.parametrize("length", [1, 150])
def test_equals_the_textbook(
    mode: str, nhead: int, layernorm: bool, chunk_size: int | None, left: int | None, length: int
) -> None:
    torch.manual_seed(length)
    sizes = {} if mode == FAST else {"summary_hid_dim": [32]}
    if mode not in (FAST, LITE):
        sizes["local_proj_hid_dim"] = [16, 40]
    cell = SummaryMixing(D, nhead, mode=mode, use_layernorm=layernorm, global_dropout=0.0, **sizes)
    exact = copy.deepcopy(cell).double()
    padding = padding_of(length, max(1, length // 2), 0)
    x_BTD = torch.randn(3, length, D)
    x_fast, x_exact = x_BTD.requires_grad_(), x_BTD.detach().double().requires_grad_()
    got = cell(x_fast, padding, chunk_size, left)
    want = naive_summary_mixing(exact, x_exact, padding, chunk_size, left)
    seen = torch.randn(3, length, D).masked_fill(padding[..., None], 0.0)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert relative_error(got[~padding], want[~padding]) < 1e-5
    assert x_fast.grad is not None and x_exact.grad is not None
    assert relative_error(x_fast.grad, x_exact.grad) < 1e-5
    for (name, fast), slow in zip(cell.named_parameters(), exact.parameters(), strict=True):
        assert fast.grad is not None and slow.grad is not None
        assert relative_error(fast.grad, slow.grad) < 1e-5, name


class SquaredReLU(nn.ReLU):
    """A subclass that is another function."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


@pytest.mark.parametrize(
    "activation", [nn.GELU, nn.SiLU, nn.ReLU, nn.LeakyReLU, SquaredReLU, nn.Tanh, nn.Identity]
)
def test_every_activation_gets_its_gradient(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    cell = SummaryMixing(D, 2, activation=activation, global_dropout=0.0).double()
    x_BTD = torch.randn(2, 9, D, dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(cell(x_BTD).square().sum(), x_BTD)
    (want,) = torch.autograd.grad(naive_summary_mixing(cell, x_BTD).square().sum(), x_BTD)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("nhead", "mode", "parameters"),
    [
        (1, FULL, 1_575_424),
        (4, FULL, 788_992),
        (8, FULL, 657_920),
        (1, FAST, 1_050_112),
        (1, LITE, 525_312),
        (4, LITE, 132_096),
        (8, LITE, 66_560),
    ],
)
def test_parameters_at_512(nhead: int, mode: str, parameters: int) -> None:
    cell = SummaryMixing(512, nhead, mode=mode, use_layernorm=False)
    assert sum(p.numel() for p in cell.parameters()) == parameters


def test_layernorm_adds_its_own_parameters_only() -> None:
    with_norm, without = SummaryMixing(D), SummaryMixing(D, use_layernorm=False)
    added = {n for n, _ in with_norm.named_parameters()} - {
        n for n, _ in without.named_parameters()
    }
    assert added == {
        "local_norm.weight",
        "local_norm.bias",
        "summary_norm.weight",
        "summary_norm.bias",
    }


@pytest.mark.parametrize("nhead", [1, 4])
def test_initialisation_has_the_fan_in_of_a_head(nhead: int) -> None:
    layer = BlockLinear(512, 512, nhead)
    bound = 1 / math.sqrt(512 / nhead)
    assert layer.weight.abs().max() <= bound
    assert math.isclose(float(layer.weight.std()), bound / math.sqrt(3), rel_tol=0.02)
    cell = SummaryMixing(512, nhead)
    joint = 1 / math.sqrt(1024)
    for half in (cell.combine_local.weight, cell.combine_summary.weight):
        assert math.isclose(float(half.std()), joint / math.sqrt(3), rel_tol=0.02)


def test_summary_dropout_is_drawn_once_per_utterance() -> None:
    """With f's half of c at zero, only the summary is left: all frames of an utterance agree."""
    torch.manual_seed(0)
    cell = SummaryMixing(D, global_dropout=0.5).train()
    nn.init.zeros_(cell.combine_local.weight)
    x_BTD = torch.randn(2, 6, D)
    y_BTD = cell(x_BTD)
    assert torch.equal(y_BTD[:, 0], y_BTD[:, 5])
    per_frame = naive_summary_mixing(cell, x_BTD)
    assert not torch.allclose(per_frame[:, 0], per_frame[:, 5])


def test_dropout_keeps_the_mean_of_the_textbook_form() -> None:
    torch.manual_seed(0)
    cell = SummaryMixing(D, global_dropout=0.3, activation=nn.Identity).train()
    x_BTD = torch.randn(1, 5, D)
    drawn = torch.stack([cell(x_BTD) for _ in range(1000)]).mean(0)
    assert relative_error(drawn, cell.eval()(x_BTD).double()) < 0.1


def test_keeps_less_for_backward_than_the_textbook() -> None:
    cell = SummaryMixing(64, 1, global_dropout=0.0)
    x_BTD = torch.randn(2, 500, 64, requires_grad=True)
    textbook = kept_bytes(lambda: naive_summary_mixing(cell, x_BTD), cell)
    assert kept_bytes(lambda: cell(x_BTD), cell) <= 0.85 * textbook


def test_gradients_of_single_utterances() -> None:
    """torch.func transforms reach through the cell."""
    cell, x_BTD = SummaryMixing(D, 2).eval(), torch.randn(3, 7, D)
    parameters = dict(cell.named_parameters())

    def loss(weights: dict[str, Tensor], x_TD: Tensor) -> Tensor:
        return torch.func.functional_call(cell, weights, (x_TD[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x_BTD)
    cell(x_BTD).square().sum().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [FULL, LITE, FAST])
def test_long_streams_keep_their_precision(mode: str) -> None:
    """Limited left context after 16k frames: no remainder of a sum over all of them."""
    torch.manual_seed(0)
    cell = SummaryMixing(D, mode=mode, global_dropout=0.0)
    x_BTD = torch.randn(1, 16_384, D) + 3.0
    got = cell(x_BTD, None, 8, 1)[:, -8:]
    want = cell.double()(x_BTD[:, -16:].double())[:, -8:]
    assert relative_error(got, want) < 1e-5


def test_swish_of_speechbrain_is_silu() -> None:
    from speechbrain.nnet.activations import Swish

    assert isinstance(make_activation(Swish), nn.SiLU)
    assert isinstance(make_activation(lambda: Swish(2.0)), Swish)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown mode 'mean'. Known: SummaryMixing, "):
        SummaryMixing(D, mode="mean")
    with pytest.raises(ValueError, match="nhead=5"):
        SummaryMixing(D, nhead=5)
    with pytest.raises(ValueError, match=r"12 features \(summary_out_dim\) must be enc_dim=24"):
        SummaryMixing(D, mode=LITE, summary_out_dim=12)
    with pytest.raises(ValueError, match="decay=1.5"):
        SummaryMixing(D, mode=EXPDECAY, decay=1.5)
    for mode in (FULL, LITE, FAST):
        with pytest.raises(InputError, match=f"decay=0.9 .*mode={mode}.*choose mode={EXPDECAY}"):
            build_mixer("SummaryMixing", MixerSize(D), mode=mode, decay=0.9)
    with pytest.raises(InputError, match=f"global_dropout=0.1 .*mode={LITE}.*leave it out"):
        build_mixer("SummaryMixing", MixerSize(D), mode=LITE, global_dropout=0.1)
    assert build_mixer("SummaryMixing", MixerSize(D, dropout=0.1), mode=LITE).dropout.p == 0
    with pytest.raises(InputError, match=r"SiLU\(inplace=True\) would overwrite"):
        SummaryMixing(D, activation=nn.SiLU(inplace=True))
    cell = SummaryMixing(D)
    with pytest.raises(ValueError, match=r"expects \(batch, time, 24\) and got \(2, 5, 8\)"):
        cell(torch.zeros(2, 5, 8))
    with pytest.raises(ValueError, match="True = padded"):
        cell(torch.zeros(2, 5, D), torch.ones(2, 5))
    with pytest.raises(ValueError, match="needs a chunk_size"):
        cell(torch.zeros(2, 5, D), left_context_size=2)
    with pytest.raises(ValueError, match="at least 1"):
        cell(torch.zeros(2, 5, D), chunk_size=0)
    with pytest.raises(ValueError, match="does not use pos_embs"):
        cell(torch.zeros(2, 5, D), pos_embs=torch.zeros(1, 9, D))


def test_unused_arguments_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        SummaryMixing(D, mode=LITE, local_proj_hid_dim=[7])
        SummaryMixing(D, nhead=3, mode=FAST, use_layernorm=True)
        SummaryMixing(D, mode=FAST)
    assert "local_proj_hid_dim=[7]" in caplog.text and "nhead=3" in caplog.text
    assert caplog.text.count("use_layernorm=True") == 1


def test_modes_are_all_tested() -> None:
    assert {form[0] for form in FORMS} == set(MODES)
