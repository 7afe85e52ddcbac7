"""Precision that autocast may not lower: exponents, sums over time, positions."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, on devices that have it: inside, dtypes are as the tensors say."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device) else nullcontext()


def has_autocast(device: torch.device) -> bool:
    """Every device that is compiled for has it; the compiler cannot trace the question."""
    return torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
