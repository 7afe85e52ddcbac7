"""Depthwise convolution under padding and chunks against one tap at a time."""

from __future__ import annotations

import pytest
import torch

from summarymixing_modules.errors import InputError
from summarymixing_modules.ops.convolution import check_padding_mode, depthwise_conv, reflected
from summarymixing_modules.ops.naive import naive_depthwise_conv


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4, 50])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 4, 21])
@pytest.mark.parametrize("width", [1, 7])
def test_equals_one_tap_at_a_time(
    chunk_size: int | None, causal: bool, length: int, width: int
) -> None:
    torch.manual_seed(0)
    x_BTD = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, width, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    padding = torch.arange(length)[None] >= torch.tensor([[length], [(length + 1) // 2]])
    seen = torch.randn(2, length, 3, dtype=torch.float64)
    results = []
    for function in (depthwise_conv, naive_depthwise_conv):
        y_BTD = function(x_BTD, weight, bias, padding, chunk_size, causal)
        grads = torch.autograd.grad((y_BTD * seen).sum(), (x_BTD, weight, bias))
        results.append((y_BTD, *grads))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_reflects_each_utterance_at_its_own_end(length: int) -> None:
    """Equal to torch's reflection alone; where torch refuses, to a walk back and forth."""
    torch.manual_seed(0)
    x_BTD, lengths_B = torch.randn(2, 9, 2), torch.tensor([length, 9])
    got_BTD = reflected(x_BTD, lengths_B, 3)[0, : length + 6]
    places = list(range(length)) + list(range(length - 2, 0, -1))  # one period
    walk = [places[place % len(places)] for place in range(-3, length + 3)]
    torch.testing.assert_close(got_BTD, x_BTD[0, walk])
    if length > 3:
        alone_DT = torch.nn.functional.pad(x_BTD[:1, :length].mT, (3, 3), mode="reflect")
        torch.testing.assert_close(got_BTD, alone_DT[0].T)


def test_chunks_cannot_reflect() -> None:
    x_BTD, weight = torch.randn(1, 9, 2), torch.randn(2, 1, 3)
    with pytest.raises(InputError, match="padding_mode=zeros"):
        depthwise_conv(x_BTD, weight, None, chunk_size=4, padding_mode="reflect")
    with pytest.raises(InputError, match="zeros or reflect"):
        check_padding_mode("circular")
