"""Batch norm over the real frames of a batch that may lie on several processes.

Padding takes part in nothing: not in the statistics, nor in the gradient. Under torch.distributed
the statistics are those of the batches of all processes together, on CPUs and GPUs alike; every
process takes part in the exchange, whatever it holds (one utterance, none, or padding alone), so
none can wait for another. (torch's ``SyncBatchNorm`` does this on GPUs only, and takes frames, not
a mask: picking the real ones out would make the CPU wait for the GPU.)

Shape suffixes: B batch, T frames, D features, R processes, X = 2·D + 1 numbers of a process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import accumulation_dtype
from summarymixing_modules.ops.pooling import chunk_moments
from summarymixing_modules.ops.summary import masked


def batch_norm(
    x_BTD: Tensor,
    padding_BT: Tensor | None,
    weight_D: Tensor,
    bias_D: Tensor,
    running_mean_D: Tensor,
    running_variance_D: Tensor,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm as in training (arXiv 1502.03167, algorithm 1); updates the running statistics.

    One frame alone, over all processes, has no statistics: the running ones are taken for it.

    Args:
        x_BTD: features.
        padding_BT: True = padded; None = all are real.
        weight_D: γ.
        bias_D: β.
        running_mean_D: changed in place.
        running_variance_D: changed in place; the unbiased variance, as in torch.
        momentum: share of this batch in the running statistics.
        eps: added to the variance.

    Returns:
        y_BTD in the dtype of ``x_BTD``; zero where it is padding.
    """
    mean_D, variance_D, count = _statistics(x_BTD.detach(), padding_BT)
    several = count > 1
    mean_D = torch.where(several, mean_D, running_mean_D)
    unbiased_D = variance_D * (count / (count - 1).clamp(min=1))
    with torch.no_grad():
        running_mean_D.lerp_(mean_D.to(running_mean_D.dtype), momentum)
        unbiased_D = torch.where(several, unbiased_D, running_variance_D)
        variance_D = torch.where(several, variance_D, running_variance_D)
        running_variance_D.lerp_(unbiased_D.to(running_variance_D.dtype), momentum)
    share = torch.where(several, 1 / count.clamp(min=1), 0.0)
    return _Normalisation.apply(x_BTD, padding_BT, weight_D, bias_D, mean_D, variance_D, share, eps)


class _Normalisation(torch.autograd.Function):
    """(x − mean) / √(variance + ε) · γ + β, where mean and variance depend on x.

    ``share`` is the weight of a frame in them, 1 / number; 0 if they are not those of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        weight_D: Tensor,
        bias_D: Tensor,
        mean_D: Tensor,
        variance_D: Tensor,
        share: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x_BTD, padding_BT, weight_D, mean_D, variance_D, share)
        ctx.eps = eps
        y_MD = F.batch_norm(x_BTD.flatten(0, 1), mean_D, variance_D, weight_D, bias_D, eps=eps)
        return masked(y_MD.view_as(x_BTD), padding_BT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD, padding_BT, weight_D, mean_D, variance_D, share = ctx.saved_tensors
        factor_D = (variance_D + ctx.eps).rsqrt()
        unit_BTD = (x_BTD - mean_D) * factor_D
        dy_BTD = masked(gradients[0].to(unit_BTD.dtype), padding_BT)
        own_2D = torch.stack([dy_BTD.sum(dim=(0, 1)), (dy_BTD * unit_BTD).sum(dim=(0, 1))])
        mean_2D = _summed_over_processes(own_2D.clone()) * share
        dx_BTD = dy_BTD - mean_2D[0] - unit_BTD.mul_(mean_2D[1])
        dx_BTD = masked(dx_BTD.mul_(factor_D * weight_D), padding_BT).to(x_BTD.dtype)
        return dx_BTD, None, own_2D[1], own_2D[0], None, None, None, None


def _statistics(x_BTD: Tensor, padding_BT: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of the real frames of all processes.

    Those of each process are merged as in ``merge_moments``: no sum of squares, which would cancel.
    """
    features = x_BTD.shape[-1]
    flat_1MD = x_BTD.reshape(1, -1, features)
    if flat_1MD.shape[1] == 0:
        own_X = x_BTD.new_zeros(2 * features + 1, dtype=accumulation_dtype(x_BTD.dtype))
    else:
        flat_1M = None if padding_BT is None else padding_BT.reshape(1, -1)
        own_X = chunk_moments(flat_1MD, flat_1M, flat_1MD.shape[1]).flatten()
    mean_RD, spread_RD, count_R1 = _of_all_processes(own_X).split([features, features, 1], dim=1)
    count = count_R1.sum()
    mean_D = (mean_RD * (count_R1 / count.clamp(min=1))).sum(dim=0)
    spread_D = (spread_RD + count_R1 * (mean_RD - mean_D).square()).sum(dim=0)
    return mean_D, spread_D / count.clamp(min=1), count


def _processes() -> int:
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def _of_all_processes(own_X: Tensor) -> Tensor:
    """(R, X), the same on every process."""
    processes = _processes()
    if processes == 1:
        return own_X[None]
    all_RX = own_X.new_empty(processes, own_X.numel())
    distributed.all_gather_into_tensor(all_RX, own_X[None])
    return all_RX


def _summed_over_processes(x: Tensor) -> Tensor:
    """The sum, in place."""
    if _processes() > 1:
        distributed.all_reduce(x)
    return x
