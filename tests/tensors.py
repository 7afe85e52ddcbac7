"""What tests of tensors share."""

from __future__ import annotations

import torch
from torch import Tensor


def padding_of(*lengths: int) -> Tensor:
    """(B, T) mask, True = padded."""
    return torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]


def relative_error(got: Tensor | None, want: Tensor | None, floor: float = 1e-12) -> float:
    """Of norms, in float64.

    Args:
        got: what is tested.
        want: what it should be.
        floor: smaller norms count as this: a gradient that should vanish may be rounding noise.
    """
    assert got is not None and want is not None
    want = want.detach().double()
    return float((got.detach().double() - want).norm() / want.norm().clamp(min=floor))
