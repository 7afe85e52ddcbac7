"""Random draws that are the same in every evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def same_draws(device: str, same: bool = True) -> Iterator[None]:
    """Draws inside are those of one seed, and the draws that follow know nothing of them.

    Args:
        device: whose generator is used, besides the CPU's.
        same: False leaves the generators alone.
    """
    if not same:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(0)
        yield
