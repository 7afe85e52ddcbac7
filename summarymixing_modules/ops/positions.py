"""Absolute sine positions (arXiv 1706.03762, §3.5), for any length and any offset."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_positions(
    length: int, features: int, offset: int = 0, device: torch.device | None = None
) -> Tensor:
    """Sines in the even features and cosines in the odd ones.

    Args:
        length: frames T.
        features: D, even.
        offset: position of the first frame.
        device: where to make them.

    Returns:
        positions_TD in float32.

    Raises:
        ValueError: an odd number of features.
    """
    if features % 2:
        raise ValueError(f"sine positions need an even number of features, not {features}.")
    exponent_P = torch.arange(0, features, 2, device=device, dtype=torch.float32) / features
    time_T = torch.arange(offset, offset + length, device=device, dtype=torch.float32)
    angle_TP = torch.outer(time_T, 10000.0**-exponent_P)
    return torch.stack([angle_TP.sin(), angle_TP.cos()], dim=-1).flatten(1)
