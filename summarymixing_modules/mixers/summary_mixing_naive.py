"""The textbook form of SummaryMixing, for tests and as the yardstick of the benchmark.

It evaluates the parameters of a ``SummaryMixing`` cell exactly as the papers write it: dense
matrices with zeros between the heads, a T×T matrix for the means of chunks (and for the statistics
of the ablations), the summary repeated over time, one matrix on the concatenation.
``cell.double()`` makes it a float64 reference.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.mixers.layers import BlockLinear
from summarymixing_modules.mixers.summary_mixing import LITE, SummaryMixing
from summarymixing_modules.mixers.summary_statistics import (
    DecayedMean,
    MeanAndDeviation,
    WeightedMean,
)
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.decay import naive_decayed_means
from summarymixing_modules.ops.pooling import naive_mean_and_deviation, naive_softmax_means
from summarymixing_modules.ops.summary import naive_means


def naive_summary_mixing(
    cell: SummaryMixing,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """y_BTD of a cell by the textbook; dropout on [f ; s̄] is drawn per frame.

    Args:
        cell: whose parameters to use.
        x_BTD: input.
        padding_BT: True = padded.
        chunk_size: frames of a chunk; None = full context.
        left_context_size: chunks to the left; None = all of them.
    """
    width = cell.local_width
    each_BTS = _mlp(cell, x_BTD, slice(width, None), cell.summary_layers, cell.summary_activation)
    chunks = Chunks.of(chunk_size, left_context_size)
    summary_BTR = _statistic(cell, each_BTS, padding_BT, chunks)
    if cell.mode == LITE:
        return summary_BTR
    local_BTF = _mlp(cell, x_BTD, slice(0, width), cell.local_layers, cell.local_activation)
    both = torch.cat([cell.local_norm(local_BTF), cell.summary_norm(summary_BTR)], dim=-1)
    weight = torch.cat([cell.combine_local.weight, cell.combine_summary.weight], dim=1)
    y_BTD = F.linear(cell.dropout(both), weight, cell.combine_local.bias)
    return cell.activation(y_BTD) if cell.combiner_activation else y_BTD


def _statistic(
    cell: SummaryMixing, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks | None
) -> Tensor:
    """What the cell keeps of s(x), for every frame."""
    seen = (padding_BT, chunks)
    if isinstance(cell.statistic, DecayedMean):
        return naive_decayed_means(s_BTS, *seen, cell.statistic.decay)
    if isinstance(cell.statistic, MeanAndDeviation):
        return naive_mean_and_deviation(s_BTS, *seen)
    if isinstance(cell.statistic, WeightedMean):
        vectors_SN = torch.block_diag(*cell.statistic.score[:, :, None])
        return naive_softmax_means(s_BTS, s_BTS @ vectors_SN, *seen)
    if chunks is None:
        return _utterance_means(s_BTS, padding_BT)
    return naive_means(s_BTS, *seen)


def _utterance_means(s_BTS: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Σ_t s_t / T, repeated over time."""
    if padding_BT is None:
        mean_B1S = s_BTS.mean(dim=1, keepdim=True)
    else:
        kept_BT1 = (~padding_BT)[..., None].to(s_BTS.dtype)
        count_B11 = kept_BT1.sum(dim=1, keepdim=True).clamp(min=1)
        mean_B1S = (s_BTS * kept_BT1).sum(dim=1, keepdim=True) / count_B11
    return mean_B1S.repeat(1, s_BTS.shape[1], 1)


def _mlp(
    cell: SummaryMixing, x_BTD: Tensor, columns: slice, layers: nn.ModuleList, last_activation: bool
) -> Tensor:
    """Linear + activation, layer after layer; ``columns`` are f's or s's share of the first."""
    x_BTD = _dense(cell.input_proj, x_BTD, columns)
    for layer in layers:
        x_BTD = _dense(layer, cell.activation(x_BTD), slice(None))
    return cell.activation(x_BTD) if last_activation else x_BTD


def _dense(layer: nn.Module, x_BTD: Tensor, columns: slice) -> Tensor:
    """A block-diagonal layer as one dense matrix."""
    assert isinstance(layer, BlockLinear)
    blocks = [block_IO[:, columns] for block_IO in layer.weight]
    weight_IO = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
    return F.linear(x_BTD, weight_IO.t(), layer.bias[..., columns].flatten())
