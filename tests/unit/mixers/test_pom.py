"""Polynomial mixing against its equations: by hand, and naive in float64."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch

from summarymixing_modules.bench.measure import kept_bytes
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerSize, PoM, build_mixer
from summarymixing_modules.mixers.naive import naive_pom
from tests.tensors import padding_of, relative_error

D = 12
CHUNKS = [(None, None), (1, None), (4, None), (4, 0), (4, 2), (5, 1), (16, 3), (500, 1)]


def small(degree: int, expansion: int, use_layernorm: bool = True) -> PoM:
    torch.manual_seed(0)
    return PoM(D, degree, expansion, use_layernorm)


@torch.no_grad()
def by_hand() -> PoM:
    """One feature, k = 2, D = 1. GELU(z) is z to rounding where z is 10 or more."""
    mixer = PoM(1, degree=2, expansion=1, use_layernorm=False).double()
    for linear, weight, bias in (
        (mixer.factors, [[10.0], [20.0]], [0.0, 40.0]),
        (mixer.gate, [[math.log(3)], [0.0]], [0.0, 0.0]),
        (mixer.output, [[1.0, 0.01]], [0.25]),
    ):
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))
    return mixer


@pytest.mark.parametrize(
    ("chunk", "first", "second"),
    [
        # p(1) = [10, 10·60], p(2) = [20, 20·80]; gates [3/4, 1/2] and [9/10, 1/2].
        ((None, None), 0.75 * 15 + 0.005 * 1100 + 0.25, 0.9 * 15 + 0.005 * 1100 + 0.25),
        ((1, None), 0.75 * 10 + 0.005 * 600 + 0.25, 0.9 * 15 + 0.005 * 1100 + 0.25),
        ((1, 0), 0.75 * 10 + 0.005 * 600 + 0.25, 0.9 * 20 + 0.005 * 1600 + 0.25),
    ],
)
def test_by_hand(chunk: tuple[int | None, int | None], first: float, second: float) -> None:
    x_BTD = torch.tensor([[[1.0], [2.0], [7.0]]]).double()
    y_BTD = by_hand()(x_BTD, torch.tensor([[False, False, True]]), *chunk)
    torch.testing.assert_close(y_BTD[0, :2, 0], torch.tensor([first, second]).double())


@pytest.mark.parametrize(("degree", "expansion"), [(1, 1), (2, 3), (3, 2), (4, 1)])
@pytest.mark.parametrize(("chunk_size", "left"), CHUNKS)
@pytest.mark.parametrize("length", [1, 37])
def test_equals_the_equations(
    degree: int, expansion: int, chunk_size: int | None, left: int | None, length: int
) -> None:
    mixer = small(degree, expansion, use_layernorm=degree != 4)
    exact = copy.deepcopy(mixer).double()
    padding = padding_of(length, max(1, length // 2), 0)
    x_fast = torch.randn(3, length, D, requires_grad=True)
    x_exact = x_fast.detach().double().requires_grad_()
    got = mixer(x_fast, padding, chunk_size, left)
    want = naive_pom(exact, x_exact, padding, chunk_size, left)
    seen = torch.randn(3, length, D).masked_fill(padding[..., None], 0.0)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert relative_error(got[~padding], want[~padding]) < 1e-5
    assert relative_error(x_fast.grad, x_exact.grad) < 1e-5
    assert x_fast.grad is not None and x_fast.grad[padding].abs().max() == 0
    for (name, fast), slow in zip(mixer.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(fast.grad, slow.grad) < 1e-5, name


def test_has_second_derivatives() -> None:
    mixer = small(2, 1).double()
    x_BTD = torch.randn(1, 3, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(mixer, (x_BTD,))


def test_keeps_two_fifths_of_what_the_equations_keep() -> None:
    """Two Linears' outputs, where the equations keep factors, monomials, gates and a product."""
    mixer, x_BTD = PoM(32, 3, 2), torch.randn(2, 500, 32, requires_grad=True)
    naive = kept_bytes(partial(naive_pom, mixer, x_BTD), mixer)
    kept = kept_bytes(partial(mixer, x_BTD), mixer)
    assert kept <= 0.4 * naive
    outputs = 2 * 2 * 500 * 6 * 32 * 4
    assert kept <= outputs + 6 * x_BTD.numel() * 4


@torch.no_grad()
def test_long_streams_keep_their_precision() -> None:
    mixer = small(3, 2)
    x_BTD = torch.randn(1, 16_384, D) + 3.0
    got = mixer(x_BTD, None, 8, 1)[:, -8:]
    want = naive_pom(mixer.double(), x_BTD[:, -16:].double())[:, -8:]
    assert relative_error(got, want) < 1e-5


def test_state_is_one_sum_and_a_count() -> None:
    state = PoM(D, 3, 2).initial_state(5)
    assert state.memory.shape == (5, 1, 3 * 2 * D + 1) and state.memory.dtype == torch.float32


@pytest.mark.parametrize(("degree", "expansion"), [(3, 2), (2, 2), (1, 4)])
def test_parameters_at_488(degree: int, expansion: int) -> None:
    features = degree * expansion * 488
    want = 2 * (488 * features + features) + features * 488 + 488 + 2 * 488
    assert sum(p.numel() for p in PoM(488, degree, expansion).parameters()) == want


def test_what_is_refused() -> None:
    for option in ("degree", "expansion"):
        with pytest.raises(InputError, match=f"{option}=0 of pom must be at least 1"):
            build_mixer("pom", MixerSize(D), **{option: 0})
