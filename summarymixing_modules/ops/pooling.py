"""Statistics over the frames that each frame may see, where sums are not enough, in linear time.

A statistic is kept as one vector per chunk, and two chunks are merged into one without loss: the
moments of Chan, Golub and LeVeque (1979, Stanford STAN-CS-79-773), and sums under a softmax with
its largest score beside them. Prefixes and windows of chunks are then made of merges alone: nothing
is ever subtracted, so nothing cancels.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, W chunks of a window, N heads,
I features of a head, S = N·I features, X numbers that a chunk is kept as.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from summarymixing_modules.ops.chunks import accumulation_dtype
from summarymixing_modules.ops.summary import chunk_sums, masked

Merge = Callable[[Tensor, Tensor], Tensor]

# Score of a chunk without real frames: far below any other, and finite, so that differences are.
UNSEEN = -1e30
# Variances below it count as it: the square root keeps a gradient, and rounding noise has none.
MIN_VARIANCE = 1e-10


def merge_prefixes(x_BCX: Tensor, merge: Merge) -> Tensor:
    """Entry c holds x[0], …, x[c] merged; O(C) merges in O(log C) steps.

    Neighbours are merged, the half-length sequence is scanned by the same function, and every
    second entry follows from the one before it.

    Args:
        x_BCX: one vector per chunk.
        merge: associative.
    """
    if x_BCX.shape[1] == 1:
        return x_BCX
    even_BCX, odd_BCX = x_BCX[:, 0::2], x_BCX[:, 1::2]
    pairs = odd_BCX.shape[1]
    to_odd_BCX = merge_prefixes(merge(even_BCX[:, :pairs], odd_BCX), merge)
    later_BCX = merge(to_odd_BCX[:, : even_BCX.shape[1] - 1], even_BCX[:, 1:])
    to_even_BCX = torch.cat([even_BCX[:, :1], later_BCX], dim=1)
    both_BCX = torch.stack([to_even_BCX[:, :pairs], to_odd_BCX], dim=2).flatten(1, 2)
    return torch.cat([both_BCX, to_even_BCX[:, pairs:]], dim=1)


def merge_windows(x_BCX: Tensor, left: int | None, merge: Merge, empty_X: Tensor) -> Tensor:
    """Each chunk merged with ``left`` chunks before it, in O(C) merges.

    As in ``sliding_sum``, a window is the suffix of one block and the prefix of the next.

    Args:
        x_BCX: one vector per chunk.
        left: chunks; None = all of them.
        merge: associative, and indifferent to order.
        empty_X: the vector of a chunk without real frames.
    """
    batch, chunks, _ = x_BCX.shape
    if left is None or left >= chunks - 1:
        return merge_prefixes(x_BCX, merge)
    if left == 0:
        return x_BCX
    window = left + 1
    padded_BCX = torch.cat([x_BCX, empty_X.expand(batch, -chunks % window, -1)], dim=1)
    blocks_BNWX = padded_BCX.unflatten(1, (-1, window))
    folded_MWX = blocks_BNWX.flatten(0, 1)
    prefix_BNWX = merge_prefixes(folded_MWX, merge).view_as(blocks_BNWX)
    suffix_BNWX = merge_prefixes(folded_MWX.flip(1), merge).flip(1).view_as(blocks_BNWX)
    # Position r of a block still sees positions r + 1 … W − 1 of the block before it.
    empty_BNWX = empty_X.expand_as(blocks_BNWX)
    before_BNWX = torch.cat([suffix_BNWX[:, :-1, 1:], empty_BNWX[:, 1:, :1]], dim=2)
    before_BNWX = torch.cat([empty_BNWX[:, :1], before_BNWX], dim=1)
    return merge(before_BNWX, prefix_BNWX).flatten(1, 2)[:, :chunks]


def chunk_moments(s_BTS: Tensor, padding_BT: Tensor | None, chunk_size: int) -> Tensor:
    """[mean ; Σ (s − mean)² ; number] of the real frames of each chunk, at least float32.

    Args:
        s_BTS: T must be a multiple of ``chunk_size``.
        padding_BT: True = padded.
        chunk_size: frames of a chunk.
    """
    sums_BCS, counts_BC = chunk_sums(s_BTS, padding_BT, chunk_size)
    counts_BC1 = counts_BC[..., None]
    means_BCS = sums_BCS / counts_BC1.clamp(min=1.0)
    apart_BTS = (s_BTS.unflatten(1, (-1, chunk_size)) - means_BCS[:, :, None]).flatten(1, 2)
    squares_BTS = masked(apart_BTS, padding_BT).square()
    spread_BCS = squares_BTS.unflatten(1, (-1, chunk_size)).sum(dim=2)
    return torch.cat([means_BCS, spread_BCS, counts_BC1], dim=-1)


def merge_moments(one_BCX: Tensor, two_BCX: Tensor) -> Tensor:
    """The moments of two sets of frames together."""
    features = one_BCX.shape[-1] // 2
    mean1, spread1, count1 = one_BCX.split([features, features, 1], dim=-1)
    mean2, spread2, count2 = two_BCX.split([features, features, 1], dim=-1)
    count = count1 + count2
    share2 = count2 / count.clamp(min=1.0)
    apart = mean2 - mean1
    spread = spread1 + spread2 + apart.square() * (count1 * share2)
    return torch.cat([mean1 + apart * share2, spread, count], dim=-1)


def mean_and_deviation(moments_BCX: Tensor) -> Tensor:
    """[mean ; standard deviation], (B, C, 2·S), from moments; the deviation is that of the set."""
    features = moments_BCX.shape[-1] // 2
    mean_BCS, spread_BCS, count_BC1 = moments_BCX.split([features, features, 1], dim=-1)
    variance_BCS = spread_BCS / count_BC1.clamp(min=1.0)
    return torch.cat([mean_BCS, variance_BCS.clamp(min=MIN_VARIANCE).sqrt()], dim=-1)


def chunk_softmax(
    s_BTS: Tensor, scores_BTN: Tensor, padding_BT: Tensor | None, chunk_size: int
) -> Tensor:
    """[Σ e^(a−m) s ; Σ e^(a−m) ; m] of the real frames of each chunk, at least float32.

    m is the largest score a of the chunk, one per head. It cancels in the quotient, so it is given
    no gradient.

    Args:
        s_BTS: T must be a multiple of ``chunk_size``.
        scores_BTN: a, one per head.
        padding_BT: True = padded.
        chunk_size: frames of a chunk.
    """
    if padding_BT is not None:
        scores_BTN = scores_BTN.masked_fill(padding_BT[..., None], UNSEEN)
    dtype = accumulation_dtype(s_BTS.dtype)
    scores_BCKN = scores_BTN.to(dtype).unflatten(1, (-1, chunk_size))
    top_BC1N = scores_BCKN.detach().amax(dim=2, keepdim=True)
    # Where all is padding every score is the top: only the mask makes those weights zero.
    weights_BTN = masked((scores_BCKN - top_BC1N).exp().flatten(1, 2), padding_BT)
    heads_BTNI = masked(s_BTS, padding_BT).unflatten(-1, (scores_BTN.shape[-1], -1))
    weighted_BTS = (weights_BTN[..., None] * heads_BTNI).flatten(2)
    summed_BCX = torch.cat([weighted_BTS, weights_BTN], dim=-1).unflatten(1, (-1, chunk_size))
    return torch.cat([summed_BCX.sum(dim=2), top_BC1N.squeeze(2)], dim=-1)


def merge_softmax(one_BCX: Tensor, two_BCX: Tensor, nhead: int) -> Tensor:
    """The softmax sums of two sets of frames together, under the larger of their scores."""
    top_BCN = torch.maximum(one_BCX[..., -nhead:], two_BCX[..., -nhead:])
    return torch.cat([_faded(one_BCX, top_BCN) + _faded(two_BCX, top_BCN), top_BCN], dim=-1)


def _faded(sums_BCX: Tensor, top_BCN: Tensor) -> Tensor:
    """Sums of weights under a larger score."""
    nhead = top_BCN.shape[-1]
    fade_BCN = (sums_BCX[..., -nhead:] - top_BCN).exp()
    weighted_BCNI = sums_BCX[..., : -2 * nhead].unflatten(-1, (nhead, -1))
    weighted_BCS = (weighted_BCNI * fade_BCN[..., None]).flatten(-2)
    return torch.cat([weighted_BCS, sums_BCX[..., -2 * nhead : -nhead] * fade_BCN], dim=-1)


def softmax_mean(sums_BCX: Tensor, nhead: int) -> Tensor:
    """Σ e^a s / Σ e^a per head, (B, C, S); zero where no real frame was seen."""
    weighted_BCNI = sums_BCX[..., : -2 * nhead].unflatten(-1, (nhead, -1))
    # The frame with the largest score weighs 1, so only what saw nothing is below it.
    weight_BCN = sums_BCX[..., -2 * nhead : -nhead].clamp(min=1.0)
    return (weighted_BCNI / weight_BCN[..., None]).flatten(-2)
