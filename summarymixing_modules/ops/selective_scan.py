"""The selective scan of Mamba (arXiv 2312.00752, eq. 2 with Ā = exp(Δ·A) and B̄ = Δ·B).

For every feature e and state n::

    h_t[n, e] = exp(Δ_t[e] · A[e, n]) · h_{t−1}[n, e] + Δ_t[e] · x_t[e] · B_t[n]
    y_t[e]    = Σ_n C_t[n] · h_t[n, e]

A frame with Δ = 0 leaves the state as it is: that is how padding stays out.

Shape suffixes: B batch, T frames, E features, N states of a feature, C chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.mamba_kernels import fused_scan, fused_scan_available
from summarymixing_modules.ops.selective_scan_tiles import Tile, default_tile, scan_tiles


def selective_scan(
    x_BTE: Tensor, delta_BTE: Tensor, a_EN: Tensor, b_BTN: Tensor, c_BTN: Tensor
) -> Tensor:
    """Scans from a zero state, with the fused kernel of ``mamba-ssm`` where there is one.

    Args:
        x_BTE: inputs.
        delta_BTE: step sizes Δ ≥ 0.
        a_EN: A ≤ 0.
        b_BTN: input matrix of each frame.
        c_BTN: output matrix of each frame.

    Returns:
        y_BTE in the dtype of ``x_BTE``; states are held in float32 at least.
    """
    if fused_scan_available(x_BTE.device):
        return fused_scan(x_BTE, delta_BTE, a_EN, b_BTN, c_BTN)
    return tiled_scan(x_BTE, delta_BTE, a_EN, b_BTN, c_BTN)[0]


def tiled_scan(
    x_BTE: Tensor,
    delta_BTE: Tensor,
    a_EN: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    initial_BNE: Tensor | None = None,
    want_state: bool = False,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan in plain PyTorch, with states in and out; gradients flow through both.

    Args:
        x_BTE, delta_BTE, a_EN, b_BTN, c_BTN: see ``selective_scan``.
        initial_BNE: state before the first frame; None = zero.
        want_state: also return the state after the last frame.
        tile: how much is computed at once; None = what suits the device.

    Returns:
        y_BTE and the last state (B, N, E); without ``want_state`` that tensor is empty.
    """
    tile = default_tile(x_BTE.device) if tile is None else tile
    inputs = (x_BTE, delta_BTE, a_EN, b_BTN, c_BTN, initial_BNE)
    differentiable = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in inputs
    )
    y_BTE, last_BNE, _ = scan_tiles(*inputs, want_state, differentiable, list(tile))
    return y_BTE, last_BNE


def window_states(
    first_BCNE: Tensor, later_BCNE: Tensor, fade_BCNE: Tensor, left_context_size: int
) -> Tensor:
    """State before each chunk when only ``left_context_size`` chunks before it are seen.

    A chunk maps the state before it, h, to ``fade`` · h + ``later``. Such maps are composed over
    windows of 1, 2, 4, … chunks, so that a window costs O(log left) and nothing is subtracted.

    Args:
        first_BCNE: state after each chunk when the window starts with it.
        later_BCNE: state after each chunk, from zero, when the window has started before; equal
            to ``first`` for the first chunk of all.
        fade_BCNE: product of the decays in each chunk.
        left_context_size: at least 1.

    Returns:
        states_BCNE; zero for the first chunk.
    """
    state, gain, span = torch.zeros_like(later_BCNE), torch.ones_like(fade_BCNE), 0
    power_state, power_gain, power = later_BCNE, fade_BCNE, 1
    while span < left_context_size - 1:
        if (left_context_size - 1) & power:
            state = state + gain * _delayed(power_state, span)
            gain, span = gain * _delayed(power_gain, span), span + power
        power_state = power_state + power_gain * _delayed(power_state, power)
        power_gain, power = power_gain * _delayed(power_gain, power), 2 * power
    return _delayed(state + gain * _delayed(first_BCNE, span), 1)


def _delayed(x_BCNE: Tensor, chunks: int) -> Tensor:
    """Entry c holds x[c − chunks], or zero where there is none."""
    return F.pad(x_BCNE, (0, 0, 0, 0, chunks, 0))[:, : x_BCNE.shape[1]]
