"""Means over the frames around each frame (windowed SummaryMixing, arXiv 2602.09043), in O(T).

The window of frame t holds the frames from t − r to t + r that t may see: those of its own chunk
and of the chunks to its left. Nothing is subtracted that rounding would leave behind.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, M = B·C, X features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype, sliding_sum
from summarymixing_modules.ops.summary import masked

# Up to so many frames, adding up each window from its frames is faster than sharing partial sums.
ADDED_UP = 128


def window_means(
    s_BTX: Tensor, padding_BT: Tensor | None, chunks: Chunks, radii: Sequence[int]
) -> list[Tensor]:
    """s̄^w_t of every frame for every window, (B, T, X) in the dtype of ``s_BTX``.

    It is zero where no real frame is in the window.

    Args:
        s_BTX: summary vectors; T must be a multiple of the chunk size.
        padding_BT: True = padded, left out of sums and counts.
        chunks: that of T frames is full context.
        radii: r of each window, frames to each side.
    """
    frames_BTX = masked(s_BTX, padding_BT).to(accumulation_dtype(s_BTX.dtype))
    real_BT1 = frames_BTX.new_ones(1, s_BTX.shape[1], 1)
    if padding_BT is not None:
        real_BT1 = (~padding_BT[..., None]).to(frames_BTX.dtype)
    means = []
    for radius in radii:
        counts_BT1 = window_sums(real_BT1, chunks, radius).round()
        means_BTX = window_sums(frames_BTX, chunks, radius) / counts_BT1.clamp(min=1.0)
        means.append(means_BTX.to(s_BTX.dtype))
    return means


def window_sums(x_BTX: Tensor, chunks: Chunks, radius: int) -> Tensor:
    """Σ x over the window of every frame; to rounding, whole numbers, too.

    Args:
        x_BTX: zero where padded, in the dtype to accumulate in.
        chunks: as in ``window_means``.
        radius: r.
    """
    size, left = chunks.size, chunks.left
    if size >= x_BTX.shape[1]:
        return _sums_around(x_BTX, radius, radius)
    chunks_BCKX = x_BTX.unflatten(1, (-1, size))
    past_BCKX = _sums_around(x_BTX, radius, 0).unflatten(1, (-1, size))
    if left is not None and radius > left * size:
        # The first frames of a chunk reach back to the first chunk that it sees, and no further.
        clipped_K1 = torch.arange(size, device=x_BTX.device)[:, None] < radius - left * size
        past_BCKX = torch.where(clipped_K1, _all_past_sums(chunks_BCKX, left), past_BCKX)
    after_MKX = F.pad(chunks_BCKX.flatten(0, 1)[:, 1:], (0, 0, 0, 1))
    future_MKX = _sums_around(after_MKX, 0, min(radius, size) - 1)
    return past_BCKX.flatten(1, 2) + future_MKX.reshape(x_BTX.shape)


def _all_past_sums(x_BCKX: Tensor, left: int) -> Tensor:
    """Σ over the ``left`` chunks before a frame's own, and over its own up to the frame."""
    own_BCKX = x_BCKX.cumsum(dim=2)
    if left == 0:
        return own_BCKX
    before_BCX = F.pad(own_BCKX[:, :-1, -1], (0, 0, 1, 0))
    return own_BCKX + sliding_sum(before_BCX, left - 1)[:, :, None]


def _sums_around(x_BTX: Tensor, before: int, after: int) -> Tensor:
    """Σ over each frame, ``before`` frames before it and ``after`` frames after it."""
    width = before + after + 1
    if width > ADDED_UP:
        return sliding_sum(F.pad(x_BTX, (0, 0, 0, after)), width - 1)[:, after:]
    padded_BXT = F.pad(x_BTX, (0, 0, before, after)).transpose(1, 2)
    return F.avg_pool1d(padded_BXT, width, stride=1).transpose(1, 2) * width
