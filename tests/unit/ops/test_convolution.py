"""Depthwise convolution under padding and chunks against one tap at a time."""

from __future__ import annotations

import pytest
import torch

from summarymixing_modules.ops.convolution import depthwise_conv
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
