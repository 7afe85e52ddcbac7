"""Sliding-window attention against dense matrices of scores in float64."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from summarymixing_modules.mixers import (
    LocalAttention,
    RoPEMHA,
    UnsupportedByMixer,
    localattention,
)
from summarymixing_modules.mixers.naive import naive_local_attention
from tests import tensors
from tests.tensors import padding_of

relative_error = partial(tensors.relative_error, floor=1e-2)
D, HEADS = 16, 2
CHUNKS = [(None, None), (1, None), (4, None), (4, 0), (4, 2), (5, 1), (70, 1), (500, 1)]


def assert_equal_to_the_matrix(
    mixer: LocalAttention, length: int, chunk: tuple[int | None, int | None], padded: bool
) -> None:
    """Outputs at real frames and all gradients."""
    exact = copy.deepcopy(mixer).double()
    padding = padding_of(length, (length + 1) // 2, 0) if padded else None
    x_BTD = torch.randn(3, length, D)
    x_fast, x_exact = x_BTD.requires_grad_(), x_BTD.detach().double().requires_grad_()
    got = mixer(x_fast, padding, *chunk)
    want = naive_local_attention(exact, x_exact, padding, *chunk)
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


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("window", [1, 3, 64, 100])
@pytest.mark.parametrize("length", [1, 64, 201])
def test_equals_the_matrix(chunk: tuple[int | None, int | None], window: int, length: int) -> None:
    torch.manual_seed(length)
    assert_equal_to_the_matrix(LocalAttention(D, HEADS, window), length, chunk, padded=True)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [1, 7, 150])
def test_global_tokens_equal_the_matrix(padded: bool, length: int) -> None:
    torch.manual_seed(length)
    mixer = LocalAttention(D, HEADS, 5, global_tokens=3)
    assert_equal_to_the_matrix(mixer, length, (None, None), padded)


def test_dropout_is_on_every_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the window, which reads the summaries, and that of the summaries themselves."""
    given = []
    for name in ("attend", "window_attend"):
        function = getattr(localattention, name)
        takes = inspect.signature(function)

        def spy(*args: Any, function: Any = function, takes: inspect.Signature = takes) -> Tensor:
            given.append(takes.bind(*args).arguments.get("dropout", 0.0))
            return function(*args)

        monkeypatch.setattr(localattention, name, spy)
    mixer, x_BTD = LocalAttention(D, HEADS, 3, 2, attention_dropout=0.5), torch.randn(1, 9, D)
    mixer(x_BTD)
    mixer.eval()(x_BTD)
    assert given == [0.5, 0.5, 0.0, 0.0]


def test_a_window_as_long_as_the_utterance_is_attention() -> None:
    torch.manual_seed(0)
    local, full = LocalAttention(D, HEADS, 40), RoPEMHA(D, HEADS)
    full.in_proj_weight, full.out_proj = (
        local.projections.in_proj_weight,
        local.projections.out_proj,
    )
    full.scale = local.scale
    x_BTD, padding = torch.randn(2, 40, D), padding_of(40, 23)
    torch.testing.assert_close(local(x_BTD, padding)[~padding], full(x_BTD, padding)[~padding])


@pytest.mark.parametrize(("tokens", "reach"), [(0, 3), (2, 30)])
def test_reach_by_gradient(tokens: int, reach: int) -> None:
    torch.manual_seed(0)
    mixer = LocalAttention(D, HEADS, 3, global_tokens=tokens)
    x_BTD = torch.randn(1, 30, D, requires_grad=True)
    (grad,) = torch.autograd.grad(mixer(x_BTD)[0, 10].sum(), x_BTD)
    touched = (grad[0].abs().amax(-1) > 1e-9).nonzero().flatten().tolist()
    assert touched == [t for t in range(30) if abs(t - 10) <= reach]


def test_positions_are_relative() -> None:
    torch.manual_seed(0)
    mixer = LocalAttention(D, HEADS, 3)
    x_BTD = torch.randn(1, 200, D)
    torch.testing.assert_close(mixer(x_BTD)[:, 105:150], mixer(x_BTD[:, 100:])[:, 5:50])


@torch.no_grad()
@pytest.mark.parametrize("window", [2, 50])
def test_stream_of_uneven_chunks_keeps_a_window(window: int) -> None:
    torch.manual_seed(0)
    mixer = LocalAttention(D, HEADS, window)
    x_BTD = torch.randn(2, 61, D)
    state, outputs = mixer.initial_state(2), []
    for part in x_BTD.split(7, dim=1):
        y_BTD, state = mixer.step(part, state)
        outputs.append(y_BTD)
        memory = state.memory
        assert memory.frames[0].shape[1] == memory.padding_BS.shape[1] == window
    torch.testing.assert_close(torch.cat(outputs, 1), mixer(x_BTD, None, 7))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="window=0"):
        LocalAttention(D, HEADS, 0)
    with pytest.raises(ValueError, match="global_tokens=-1"):
        LocalAttention(D, HEADS, global_tokens=-1)
    with pytest.raises(ValueError, match="nhead=16 heads the same even number"):
        LocalAttention(D, 16)
    with pytest.raises(UnsupportedByMixer, match="causal=True.*global_tokens=0"):
        LocalAttention(D, HEADS, global_tokens=1, causal=True)
    tokens = LocalAttention(D, HEADS, global_tokens=1)
    with pytest.raises(UnsupportedByMixer, match="chunk_size=4"):
        tokens(torch.zeros(1, 8, D), chunk_size=4)
    with pytest.raises(UnsupportedByMixer, match="initial_state"):
        tokens.initial_state(1)
    assert LocalAttention(D, HEADS).capabilities.chunked
