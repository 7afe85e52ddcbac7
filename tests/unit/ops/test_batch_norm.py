"""Batch norm over real frames, against torch's of the frames picked out. Ranks: test_ranks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from summarymixing_modules.ops.batch_norm import batch_norm
from summarymixing_modules.ops.naive import naive_batch_norm

D = 5


def results(
    norm: Callable[..., Tensor], x_BTD: Tensor, padding_BT: Tensor | None, dtype: torch.dtype
) -> list[Tensor]:
    """Output, gradients and running statistics."""
    draws = torch.Generator().manual_seed(1)
    weight_D, bias_D, mean_D, variance_D = (torch.rand(4, D, generator=draws) + 0.5).to(dtype)
    inputs = [x_BTD.to(dtype).requires_grad_(), weight_D.requires_grad_(), bias_D.requires_grad_()]
    y_BTD = norm(inputs[0], padding_BT, *inputs[1:], mean_D, variance_D, 0.3)
    weights_BTD = torch.randn(y_BTD.shape, generator=draws)
    gradients = torch.autograd.grad((y_BTD.tanh() * weights_BTD).sum(), inputs)
    return [y_BTD.detach(), *gradients, mean_D.detach(), variance_D.detach()]


@pytest.mark.parametrize("lengths", [None, (7, 3, 1), (7, 0, 2), (2, 0, 0)])
def test_equals_torch_on_the_real_frames(lengths: tuple[int, ...] | None) -> None:
    x_BTD = 3 + 2 * torch.randn(3, 7, D, dtype=torch.float64)
    padding_BT = None if lengths is None else torch.arange(7) >= torch.tensor(lengths)[:, None]
    if padding_BT is not None:
        x_BTD[padding_BT] = 1e3
    got = results(batch_norm, x_BTD, padding_BT, torch.float64)
    for one, other in zip(
        got, results(naive_batch_norm, x_BTD, padding_BT, torch.float64), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_large_mean_does_not_cancel() -> None:
    """In float32, mean 1000 and deviation 1: a sum of squares would lose the variance."""
    x_BTD = 1000 + torch.randn(4, 500, D)
    got, want = (results(batch_norm, x_BTD, None, d)[0] for d in (torch.float32, torch.float64))
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, D), (2, 3, D), (0, 3, D)])
def test_one_frame_or_none_has_no_statistics(shape: tuple[int, ...]) -> None:
    """The running ones are taken and stay, and the gradient takes them as given."""
    x_BTD = torch.randn(shape, requires_grad=True)
    padding_BT = torch.arange(shape[1]).expand(shape[:2]) >= 1
    padding_BT = padding_BT | (torch.arange(shape[0]) > 0)[:, None]
    mean_D, variance_D, weight_D = torch.randn(D), torch.rand(D) + 0.5, torch.rand(D)
    before = mean_D.clone(), variance_D.clone()
    y_BTD = batch_norm(x_BTD, padding_BT, weight_D, torch.zeros(D), mean_D, variance_D)
    y_BTD.sum().backward()
    assert torch.equal(mean_D, before[0]) and torch.equal(variance_D, before[1])
    factor_D = weight_D * (variance_D + 1e-5).rsqrt()
    real_BT1 = (~padding_BT)[..., None]
    torch.testing.assert_close(y_BTD, (x_BTD - mean_D) * factor_D * real_BT1)
    assert x_BTD.grad is not None
    torch.testing.assert_close(x_BTD.grad, factor_D * real_BT1)


def test_bf16_keeps_its_type_and_float32_statistics() -> None:
    x_BTD = torch.randn(3, 50, D).bfloat16()
    running = torch.zeros(D), torch.ones(D)
    y_BTD = batch_norm(x_BTD, None, torch.ones(D), torch.zeros(D), *running, momentum=1.0)
    assert y_BTD.dtype == torch.bfloat16
    torch.testing.assert_close(running[0], x_BTD.float().mean(dim=(0, 1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y_BTD.float().std(dim=(0, 1)), torch.ones(D), rtol=0.02, atol=0)


def test_no_value_is_waited_for() -> None:
    """Fake tensors have no values: reading one, which on a GPU means waiting, is an error."""
    with FakeTensorMode():
        results(batch_norm, torch.ones(2, 7, D), torch.zeros(2, 7).bool(), torch.float32)
