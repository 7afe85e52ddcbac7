"""FAVOR+ against the formula as it stands in float64, and against the softmax that it estimates."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from summarymixing_modules.mixers import Chunks, MixerSize, Performer, build_mixer
from summarymixing_modules.mixers.naive import naive_performer
from summarymixing_modules.ops.favor import (
    chunk_key_sums,
    favor_attend,
    favor_step,
    orthogonal_features,
)
from summarymixing_modules.ops.naive import naive_favor_attend
from tests import tensors
from tests.tensors import padding_of

relative_error = partial(tensors.relative_error, floor=1e-2)
D, HEADS = 16, 2
CHUNKS = [None, *(Chunks(*c) for c in [(1,), (4,), (4, 0), (4, 2), (5, 1), (130,), (500, 1)])]


def attention_inputs(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv
    return query, key, value


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("length", [1, 7, 128, 301])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_the_formula(chunk: Chunks | None, length: int, padded: bool) -> None:
    torch.manual_seed(length)
    mixer = Performer(D, HEADS, num_features=20)
    exact = copy.deepcopy(mixer).double()
    padding = padding_of(length, (length + 1) // 2, 0) if padded else None
    x_BTD = torch.randn(3, length, D)
    x_fast, x_exact = x_BTD.requires_grad_(), x_BTD.detach().double().requires_grad_()
    sizes = (chunk.size, chunk.left) if chunk else ()
    got, want = mixer(x_fast, padding, *sizes), naive_performer(exact, x_exact, padding, *sizes)
    seen = torch.randn(3, length, D)
    if padding is not None:
        seen = seen.masked_fill(padding[..., None], 0.0)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert got.isfinite().all()
    assert relative_error(got * (seen != 0), want * (seen != 0)) < 1e-5
    assert relative_error(x_fast.grad, x_exact.grad) < 1e-5
    for (name, weight), other in zip(mixer.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(weight.grad, other.grad) < 1e-5, name


def test_estimates_the_softmax_better_with_more_features() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 1, 50, 8, dtype=torch.float64) / 2
    want = (query @ key.mT / 8**0.5).softmax(-1) @ value
    errors = []
    for count in (16, 256, 4096):
        draws = [orthogonal_features(count, 8).double() for _ in range(5)]
        got = [favor_attend(query, key, value, omega, None, Chunks(50)) for omega in draws]
        errors.append(sum(relative_error(y, want) for y in got) / len(got))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.05


def test_directions_are_orthogonal_in_blocks_with_gaussian_lengths() -> None:
    torch.manual_seed(0)
    omega_ME = orthogonal_features(2000, 16)
    assert omega_ME.shape == (2000, 16)
    block = omega_ME[16:32] / omega_ME[16:32].norm(dim=1, keepdim=True)
    torch.testing.assert_close(block @ block.T, torch.eye(16), atol=1e-5, rtol=0)
    assert abs(float(omega_ME.square().sum(1).mean()) - 16) < 0.5
    covariance = omega_ME.T @ omega_ME / 2000
    assert (covariance - torch.eye(16)).abs().max() < 0.15


@pytest.mark.parametrize("chunk", [Chunks(400), Chunks(4), Chunks(4, 1)])
def test_large_scores_lose_nothing(chunk: Chunks) -> None:
    """Scores of ±30, where features of keys span 30 powers of ten."""
    torch.manual_seed(0)
    omega_ME, seen = orthogonal_features(96, 32), torch.randn(1, 2, 400, 32)
    qkv = torch.randn(3, 1, 2, 400, 32) * torch.tensor([5.0, 5, 1]).view(3, 1, 1, 1, 1)
    exact = qkv.double().requires_grad_()
    got = favor_attend(*attention_inputs(qkv.requires_grad_()), omega_ME, None, chunk)
    want = naive_favor_attend(*attention_inputs(exact), omega_ME.double(), None, chunk)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert relative_error(got, want) < 1e-5
    assert qkv.grad is not None and exact.grad is not None
    for tensor, other in zip(qkv.grad, exact.grad, strict=True):
        assert relative_error(tensor, other) < 1e-5


@pytest.mark.parametrize("chunk", [Chunks(40), Chunks(4), Chunks(4, 1)])
def test_absurd_scores_stay_finite(chunk: Chunks) -> None:
    """The formula as it stands is 0/0 here, in float64 too."""
    torch.manual_seed(0)
    omega_ME = orthogonal_features(24, 8)
    qkv = (50 * torch.randn(3, 1, 2, 40, 8)).requires_grad_()
    y_BHTE = favor_attend(*attention_inputs(qkv), omega_ME, None, chunk)
    (grad,) = torch.autograd.grad(y_BHTE.sum(), qkv)
    assert y_BHTE.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("chunk", [Chunks(40), Chunks(4), Chunks(4, 1)])
@torch.no_grad()
def test_autocast_does_not_reach_into_the_exponents(chunk: Chunks) -> None:
    """Neither in the forward pass nor in a stream: an exponent of 30 in bfloat16 is off by 6 %."""
    torch.manual_seed(0)
    omega_ME, qkv = orthogonal_features(24, 8), 3 * torch.randn(3, 1, 2, 40, 8)
    query, key, value = qkv
    past = chunk_key_sums(key, value, omega_ME, None)

    def results() -> list[Tensor]:
        y_BHTE, (top, sums) = favor_step(query, key, value, omega_ME, None, past, chunk.left)
        return [favor_attend(query, key, value, omega_ME, None, chunk), y_BHTE, top, sums]

    want = results()
    with torch.autocast("cpu", torch.bfloat16):
        for got, expected in zip(results(), want, strict=True):
            assert torch.equal(got, expected)


@torch.no_grad()
@pytest.mark.parametrize("left", [None, 0, 3])
def test_stream_whose_keys_grow(left: int | None) -> None:
    """Later keys beat the maximum of the past again and again."""
    torch.manual_seed(0)
    mixer = Performer(D, HEADS)
    x_BTD = torch.randn(2, 60, D) * torch.linspace(0.1, 6, 60)[:, None]
    state, outputs = mixer.initial_state(2, left), []
    for part in x_BTD.split(7, dim=1):
        y_BTD, state = mixer.step(part, state)
        outputs.append(y_BTD)
    got, exact = torch.cat(outputs, 1), copy.deepcopy(mixer).double()
    assert relative_error(got, naive_performer(exact, x_BTD.double(), None, 7, left)) < 1e-5
    assert relative_error(got, mixer(x_BTD, None, 7, left).double()) < 1e-5


def test_features_belong_to_the_weights() -> None:
    mixers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        mixers.append(Performer(D, HEADS))
    assert torch.equal(mixers[0].omega_ME, mixers[1].omega_ME)
    assert not torch.equal(mixers[0].omega_ME, mixers[2].omega_ME)
    mixers[2].load_state_dict(mixers[0].state_dict())
    assert torch.equal(mixers[0].omega_ME, mixers[2].omega_ME)
    assert "omega_ME" not in dict(mixers[0].named_parameters())


def test_number_of_features() -> None:
    assert build_mixer("performer", MixerSize(512, 8)).omega_ME.shape == (256, 64)
    assert build_mixer("performer", MixerSize(16, 2), num_features=5).omega_ME.shape == (5, 8)
    with pytest.raises(ValueError, match="num_features=0"):
        Performer(D, HEADS, num_features=0)
    with pytest.raises(ValueError, match="nhead=3"):
        Performer(D, 3)
