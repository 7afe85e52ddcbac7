"""Exponentially decaying means (SummaryMixing-expdecay): two first-order scans, not a matrix.

s̄_t = Σ_i λ^|t−i| s_i / Σ_i λ^|t−i| over the real frames i that frame t may see, λ = 0.995.

Shape suffixes: B batch, T frames, N blocks, K frames of a block or chunk, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype
from summarymixing_modules.ops.precision import full_precision
from summarymixing_modules.ops.summary import masked

SCAN_BLOCK = 64


def decay_scan(x_BTD: Tensor, decay: float) -> Tensor:
    """The recurrence h_t = decay · h_{t−1} + x_t from h_{−1} = 0, in O(T · block).

    Inside a block it is one small triangular matrix product; the last states of the blocks obey
    the same recurrence with decay^block, so the function calls itself on a sequence that is
    ``SCAN_BLOCK`` times shorter.

    Args:
        x_BTD: inputs, in the dtype to accumulate in.
        decay: λ in [0, 1].

    Returns:
        h_BTD.
    """
    length = x_BTD.shape[1]
    block = min(SCAN_BLOCK, length)
    steps_K = torch.arange(block, device=x_BTD.device)
    lag_KK = steps_K[:, None] - steps_K[None, :]
    # float64 powers: decay^block is raised again in the recursion.
    powers_KK = torch.where(lag_KK >= 0, decay ** lag_KK.clamp(min=0).double(), 0.0)
    padded_BTD = F.pad(x_BTD, (0, 0, 0, -length % block))
    blocks_BNKD = padded_BTD.unflatten(1, (-1, block))
    with full_precision(x_BTD.device):
        local_BNKD = powers_KK.to(x_BTD.dtype) @ blocks_BNKD
    if length == block:
        return local_BNKD.squeeze(1)
    carry_BND = decay_scan(local_BNKD[:, :-1, -1], decay**block)
    carry_BND = F.pad(carry_BND, (0, 0, 1, 0))
    fade_K = (decay ** (steps_K + 1).double()).to(x_BTD.dtype)
    states_BNKD = local_BNKD + fade_K[:, None] * carry_BND[:, :, None]
    return states_BNKD.flatten(1, 2)[:, :length]


def sliding_decay_sum(x_BCD: Tensor, left: int | None, decay: float) -> Tensor:
    """Σ_j decay^j · x[c − j] over j = 0 … ``left`` (None: all), in O(C).

    As in ``sliding_sum``, windows are put together from prefixes and suffixes of blocks: nothing is
    subtracted, so nothing of what lies outside the window is left behind by rounding.
    """
    num_chunks = x_BCD.shape[1]
    if left is None or left >= num_chunks - 1:
        return decay_scan(x_BCD, decay)
    window = left + 1
    padded_BCD = F.pad(x_BCD, (0, 0, 0, -num_chunks % window))
    blocks_BNWD = padded_BCD.unflatten(1, (-1, window))
    prefix_BNWD = decay_scan(blocks_BNWD.flatten(0, 1), decay).view_as(blocks_BNWD)
    steps_W = torch.arange(window, device=x_BCD.device)
    to_end_W = (decay ** (window - steps_W).double()).to(x_BCD.dtype)
    suffix_BNWD = (to_end_W[:, None] * blocks_BNWD).flip(2).cumsum(dim=2).flip(2)
    before_BNWD = F.pad(suffix_BNWD[:, :-1, 1:], (0, 0, 0, 1, 1, 0))
    since_W = (decay ** steps_W.double()).to(x_BCD.dtype)
    return (prefix_BNWD + since_W[:, None] * before_BNWD).flatten(1, 2)[:, :num_chunks]


def past_sums(x_BTD: Tensor, decay: float, chunks: Chunks) -> Tensor:
    """Σ_{i ≤ t} λ^(t−i) x_i over the frames of t's chunk up to t, and of its left context.

    Args:
        x_BTD: T must be a multiple of the chunk size.
        decay: λ.
        chunks: that of T frames is full context.
    """
    chunks_BCKD = x_BTD.unflatten(1, (-1, chunks.size))
    own_BCKD = decay_scan(chunks_BCKD.flatten(0, 1), decay).view_as(chunks_BCKD)
    if chunks_BCKD.shape[1] == 1 or chunks.left == 0:
        return own_BCKD.flatten(1, 2)
    reach = None if chunks.left is None else chunks.left - 1
    left_BCD = sliding_decay_sum(own_BCKD[:, :-1, -1], reach, decay**chunks.size)
    left_BCD = F.pad(left_BCD, (0, 0, 1, 0))
    steps_K = torch.arange(1, chunks.size + 1, device=x_BTD.device)
    fade_K = (decay ** steps_K.double()).to(x_BTD.dtype)
    return (own_BCKD + fade_K[:, None] * left_BCD[:, :, None]).flatten(1, 2)


def future_sums(x_BTD: Tensor, decay: float, chunk_size: int) -> Tensor:
    """Σ_{i > t} λ^(i−t) x_i over the frames that follow t in its own chunk.

    Args:
        x_BTD: T must be a multiple of ``chunk_size``.
        decay: λ.
        chunk_size: frames of a chunk.
    """
    if chunk_size == 1:
        return torch.zeros_like(x_BTD)
    chunks_BCKD = x_BTD.unflatten(1, (-1, chunk_size))
    backward_XKD = decay_scan(chunks_BCKD.flatten(0, 1).flip(1), decay).flip(1)
    after_XKD = decay * F.pad(backward_XKD[:, 1:], (0, 0, 0, 1))
    return after_XKD.view_as(x_BTD)


def decayed_means(s_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, decay: float) -> Tensor:
    """s̄_t of every frame under exponential decay, in O(T).

    Args:
        s_BTD: summary vectors; T must be a multiple of the chunk size.
        padding_BT: True = padded, left out of sums and weights.
        chunks: that of T frames is full context.
        decay: λ in (0, 1].

    Returns:
        mean_BTD in the dtype of ``s_BTD``.
    """
    sums_BTX = weighted_frames(s_BTD, padding_BT)
    sums_BTX = past_sums(sums_BTX, decay, chunks) + future_sums(sums_BTX, decay, chunks.size)
    return divide_by_weight(sums_BTX).to(s_BTD.dtype)


def weighted_frames(s_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
    """[s ; 1] with padded frames set to zero: one scan then gives sums and weights together."""
    ones_BTD = s_BTD.new_ones(*s_BTD.shape[:2], 1)
    frames_BTX = torch.cat([s_BTD, ones_BTD], dim=-1).to(accumulation_dtype(s_BTD.dtype))
    return masked(frames_BTX, padding_BT)


def divide_by_weight(sums_BTX: Tensor) -> Tensor:
    """Splits [Σ w s ; Σ w] and divides; zero where no real frame was seen."""
    sums_BTD, weight_BT1 = sums_BTX[..., :-1], sums_BTX[..., -1:]
    # A window whose real frames have all faded may leave rounding noise around zero.
    seen_BT1 = weight_BT1 > 1e-6
    return torch.where(seen_BT1, sums_BTD / torch.where(seen_BT1, weight_BT1, 1.0), 0.0)
