"""Memory for time inside an operation: what is cheap to compute twice is not kept for backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    """Calls a function without random numbers whose intermediates are not kept for backward.

    A product at its end is not computed twice: recomputing stops at its operands.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
