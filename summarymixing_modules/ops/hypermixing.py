"""HyperMixing without its generated matrices: exact, in fewer and smaller products.

Per head, the textbook generates w1_t = V1ᵀ[g_t ; 1] and w2_t = V2ᵀ[h_t ; 1], M numbers each, for
every frame (g and h are the hidden features of the two hypernetworks, V holds weight and bias of
their last layer), and mixes with y_t = GELU(Σ_i x_i w1_iᵀ) w2_t. The last layers are linear, so
they can be taken out of the sum over frames and out of the product with each frame::

    S = Σ_i x_i [g_i ; 1]ᵀ            E × X    the only sum over time
    R = GELU(S V1) V2ᵀ                E × X    once per utterance, or per chunk
    y_t = R [h_t ; 1]                 E

No frame costs anything that depends on M, and what a prefix sum or a stream carries is S.

Shape suffixes: H heads, N groups of frames (heads × utterances × chunks), K frames of a group,
E features of a head, X = E + 1, M mixing units of a head, R rows (N·E / H).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import accumulation_dtype
from summarymixing_modules.ops.precision import full_precision, has_autocast
from summarymixing_modules.ops.recompute import recomputed

ROW_BLOCK = 8192


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype to multiply in: that of autocast or of the features, and never float16.

    Sums over time leave the range of float16 (65504) within a minute of speech.
    """
    device, dtype = x.device.type, x.dtype
    if has_autocast(x.device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return torch.float32 if dtype == torch.float16 else dtype


def frame_sums(x_NKE: Tensor, hidden_NKE: Tensor, dtype: torch.dtype) -> Tensor:
    """S of each group of frames.

    Args:
        x_NKE: features, zero where padded.
        hidden_NKE: g before its GELU.
        dtype: to multiply in.

    Returns:
        sums_NEX, at least float32.
    """
    with full_precision(x_NKE.device):
        x_NKE, hidden_NKE = x_NKE.to(dtype), hidden_NKE.to(dtype)
        products_NEE = torch.bmm(x_NKE.mT, F.gelu(hidden_NKE))
        totals_NE1 = x_NKE.sum(dim=1).unsqueeze(-1)
        return torch.cat([products_NEE, totals_NE1], dim=-1).to(accumulation_dtype(dtype))


def mixing_maps(
    sums_HRX: Tensor, first_HXM: Tensor, second_HXM: Tensor, dtype: torch.dtype
) -> Tensor:
    """R = GELU(S V1) V2ᵀ, row by row.

    Many rows (one chunk makes E of them per head) are taken in blocks that are computed again in
    the backward pass: the M numbers of every row never exist all at once.

    Args:
        sums_HRX: rows of S.
        first_HXM: V1, weight and, in the last row, bias.
        second_HXM: V2, likewise.
        dtype: to multiply in.

    Returns:
        maps_HRX.
    """
    with full_precision(sums_HRX.device):
        weights = (first_HXM.to(dtype), second_HXM.to(dtype).mT)
        blocks = sums_HRX.to(dtype).split(ROW_BLOCK, dim=1)
        if len(blocks) == 1:
            return _two_layers(blocks[0], *weights)
        return torch.cat([recomputed(_two_layers, block, *weights) for block in blocks], dim=1)


def apply_maps(hidden_NKE: Tensor, maps_NEX: Tensor, dtype: torch.dtype) -> Tensor:
    """y_t = R [h_t ; 1] for the frames of each group.

    Args:
        hidden_NKE: h before its GELU.
        maps_NEX: R of each group.
        dtype: to multiply in.

    Returns:
        y_NKE.
    """
    with full_precision(hidden_NKE.device):
        weight_NEE, bias_N1E = maps_NEX[..., :-1].mT, maps_NEX[..., -1:].mT
        return torch.baddbmm(bias_N1E, F.gelu(hidden_NKE.to(dtype)), weight_NEE)


def _two_layers(rows_HRX: Tensor, first_HXM: Tensor, second_HMX: Tensor) -> Tensor:
    return torch.bmm(F.gelu(torch.bmm(rows_HRX, first_HXM)), second_HMX)
