"""Rotary position embeddings (RoFormer, arXiv 2104.09864, eq. 34), at any offset."""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0  # the slowest pair turns by its inverse per frame


def rotate(x_BHTE: Tensor, offset: int = 0) -> Tensor:
    """Turns each pair of features of a head by its position times the pair's frequency.

    Args:
        x_BHTE: queries or keys, an even number E of features per head.
        offset: position of the first frame.

    Returns:
        the rotated tensor, of the same shape and dtype.
    """
    length, features = x_BHTE.shape[-2:]
    # Angles need float32 even when the features are bfloat16.
    dtype = torch.promote_types(x_BHTE.dtype, torch.float32)
    exponent_P = torch.arange(0, features, 2, device=x_BHTE.device, dtype=dtype) / features
    time_T = torch.arange(offset, offset + length, device=x_BHTE.device, dtype=dtype)
    angle_TP = torch.outer(time_T, BASE**-exponent_P)
    cos_TP, sin_TP = angle_TP.cos().to(x_BHTE.dtype), angle_TP.sin().to(x_BHTE.dtype)
    even_BHTP, odd_BHTP = x_BHTE[..., 0::2], x_BHTE[..., 1::2]
    pairs = (even_BHTP * cos_TP - odd_BHTP * sin_TP, odd_BHTP * cos_TP + even_BHTP * sin_TP)
    return torch.stack(pairs, dim=-1).flatten(-2)
