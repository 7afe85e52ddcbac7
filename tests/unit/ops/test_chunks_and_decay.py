"""Sliding sums, means and scans against loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.ops.chunks import Chunks, pad_to_chunks, sliding_sum, visible_TT
from summarymixing_modules.ops.decay import decay_scan, decayed_means, sliding_decay_sum
from summarymixing_modules.ops.naive import naive_decayed_means, naive_means
from summarymixing_modules.ops.summary import chunk_means


@pytest.mark.parametrize("left", [None, 0, 1, 2, 5, 100])
@pytest.mark.parametrize("chunks", [1, 2, 3, 11])
@pytest.mark.parametrize("decay", [None, 0.8])
def test_sliding_sums(left: int | None, chunks: int, decay: float | None) -> None:
    x_BCD = torch.randn(2, chunks, 3, dtype=torch.float64)
    got = sliding_sum(x_BCD, left) if decay is None else sliding_decay_sum(x_BCD, left, decay)
    for c in range(chunks):
        first = 0 if left is None else max(0, c - left)
        want = sum((decay or 1.0) ** (c - j) * x_BCD[:, j] for j in range(first, c + 1))
        torch.testing.assert_close(got[:, c], want)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130, 4200])
@pytest.mark.parametrize("decay", [0.995, 0.5, 1.0])
def test_scan_is_the_recurrence(length: int, decay: float) -> None:
    x_BTD = torch.randn(1, length, 2, dtype=torch.float64, requires_grad=True)
    state, states = torch.zeros(1, 2, dtype=torch.float64), []
    for t in range(length):
        state = decay * state + x_BTD[:, t]
        states.append(state)
    want = torch.stack(states, 1)
    got = decay_scan(x_BTD, decay)
    torch.testing.assert_close(got, want)
    seen = torch.randn_like(want)
    (grad,) = torch.autograd.grad((got * seen).sum(), x_BTD, retain_graph=True)
    (grad_want,) = torch.autograd.grad((want * seen).sum(), x_BTD)
    torch.testing.assert_close(grad, grad_want)


@pytest.mark.parametrize(("chunk_size", "left"), [(1, None), (5, 0), (5, 3), (64, 1), (70, None)])
def test_float32_means_of_long_utterances(chunk_size: int, left: int | None) -> None:
    torch.manual_seed(0)
    length, chunks, decaying = 30 * 64, Chunks(chunk_size, left), Chunks(64, left)
    s_BTD = torch.randn(2, length, 4) + 2.0
    padding = torch.arange(length)[None] >= torch.tensor([[length], [length // 3]])
    got = chunk_means(s_BTD[:, : length // chunk_size * chunk_size], None, chunks)
    want = naive_means(s_BTD.double(), None, chunks)[:, ::chunk_size][:, : got.shape[1]]
    assert _error(got, want) < 1e-6
    got = decayed_means(s_BTD, padding, decaying, 0.995)
    want = naive_decayed_means(s_BTD.double(), padding, decaying, 0.995)
    assert _error(got[~padding], want[~padding]) < 1e-6


def _error(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("chunks", [Chunks(2_000), Chunks(8, None), Chunks(100, 3)])
def test_half_precision_sums_are_held_in_float32(chunks: Chunks) -> None:
    """What is left is the rounding of the mean itself, 0.4 % in bfloat16."""
    s_BTD = (torch.randn(1, 2_000, 4, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    want = naive_means(s_BTD.double(), None, chunks)[:, :: chunks.size]
    assert _error(chunk_means(s_BTD, None, chunks), want) < 3e-3
    want = naive_decayed_means(s_BTD.double(), None, chunks, 0.995)
    assert _error(decayed_means(s_BTD, None, chunks, 0.995), want) < 3e-3


def test_autocast_does_not_reach_into_the_scan() -> None:
    s_BTD, chunks = torch.randn(2, 600, 4) + 3, Chunks(8, None)
    want = decayed_means(s_BTD, None, chunks, 0.995)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decayed_means(s_BTD, None, chunks, 0.995), want)


def test_padding_to_whole_chunks() -> None:
    x_BTD = torch.ones(2, 7, 3)
    same, mask = pad_to_chunks(x_BTD, None, 7)
    assert same is x_BTD and mask is None
    longer, mask = pad_to_chunks(x_BTD, None, 4)
    assert longer.shape == (2, 8, 3) and mask is not None
    assert mask.tolist() == [[False] * 7 + [True]] * 2


def test_visible_frames() -> None:
    seen = visible_TT(5, Chunks(2, 1)).int().tolist()
    assert seen == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_meaningless_chunks_are_refused() -> None:
    assert Chunks.of(None, None) is None and Chunks.of(4, 2) == Chunks(4, 2)
    for arguments in [(0, None), (4, -1), (None, 3)]:
        with pytest.raises(InputError, match="chunk_size|left_context_size"):
            Chunks.of(*arguments)
