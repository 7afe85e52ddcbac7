"""Linformer against eq. 7 on keys and values of all cells, in float64."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from summarymixing_modules.mixers import Linformer, UnsupportedByMixer
from summarymixing_modules.mixers.naive import naive_linformer
from summarymixing_modules.ops.naive import naive_cell_means
from summarymixing_modules.ops.resample import cell_weights
from tests import tensors
from tests.tensors import padding_of

relative_error = partial(tensors.relative_error, floor=1e-2)
D, HEADS = 16, 2


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("length", [1, 7, 12, 101])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_the_equation(share: bool, length: int, padded: bool) -> None:
    torch.manual_seed(length)
    mixer = Linformer(D, HEADS, landmarks=5, resolution=12, share_key_value=share)
    exact = copy.deepcopy(mixer).double()
    padding = padding_of(length, (length + 1) // 2, 0) if padded else None
    x_BTD = torch.randn(3, length, D)
    x_fast, x_exact = x_BTD.requires_grad_(), x_BTD.detach().double().requires_grad_()
    got, want = mixer(x_fast, padding), naive_linformer(exact, x_exact, padding)
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


def cells_of(x_BTD: Tensor, padding: Tensor | None, cells: int) -> Tensor:
    weights = cell_weights(x_BTD.shape[1], padding, cells, x_BTD.device, x_BTD.dtype)
    return weights @ x_BTD


@pytest.mark.parametrize("cells", [1, 4, 9, 30])
def test_cells_are_means_over_equal_parts(cells: int) -> None:
    x_BTD, padding = torch.randn(4, 13, 3, dtype=torch.float64), padding_of(13, 8, 1, 0)
    torch.testing.assert_close(
        cells_of(x_BTD, padding, cells), naive_cell_means(x_BTD, padding, cells)
    )
    want = naive_cell_means(x_BTD, None, cells)
    torch.testing.assert_close(cells_of(x_BTD, None, cells), want)


def test_cells_of_whole_frames_are_plain_means() -> None:
    x_BTD = torch.arange(12.0).view(1, 12, 1)
    assert cells_of(x_BTD, None, 4).flatten().tolist() == [1.0, 4.0, 7.0, 10.0]
    assert cells_of(x_BTD[:, :2], None, 4).flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_cells_skip_padding_wherever_it_is() -> None:
    x_BTD = torch.randn(1, 9, 2, dtype=torch.float64)
    padding = torch.tensor([[True, False, False, True, True, False, False, False, True]])
    got = cells_of(x_BTD, padding, 6)
    torch.testing.assert_close(got, cells_of(x_BTD[:, ~padding[0]], None, 6))


def test_shares_are_exact_in_long_utterances() -> None:
    length, cells = 200_003, 7
    weights = cell_weights(length, None, cells, torch.device("cpu"), torch.float64)
    torch.testing.assert_close(weights.sum(2), torch.ones(1, cells, dtype=torch.float64))
    want = torch.full((1, length), cells / length, dtype=torch.float64)
    torch.testing.assert_close(weights.sum(1), want, rtol=1e-12, atol=0)


def test_sharing_leaves_one_matrix_out() -> None:
    counts = [
        sum(p.numel() for p in Linformer(D, HEADS, 5, 12, share_key_value=share).parameters())
        for share in (False, True)
    ]
    assert counts == [4 * D * D + D + 2 * 5 * 12, 4 * D * D + D + 5 * 12]


def test_refusals() -> None:
    for landmarks in (0, 13):
        with pytest.raises(ValueError, match=f"landmarks={landmarks}.*resolution=12"):
            Linformer(D, HEADS, landmarks, 12)
    with pytest.raises(ValueError, match="nhead=3"):
        Linformer(D, 3)
    with pytest.raises(UnsupportedByMixer, match="causal=True"):
        Linformer(D, HEADS, causal=True)
    with pytest.raises(UnsupportedByMixer, match="chunk_size=4"):
        Linformer(D, HEADS)(torch.zeros(1, 8, D), chunk_size=4)
