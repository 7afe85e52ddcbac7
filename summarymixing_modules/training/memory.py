"""The most memory a process has used."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory_mb(device: str) -> float:
    """Peak memory of this process so far, in MB of 2^20 bytes.

    On a CUDA device, what torch's tensors took of it (``max_memory_allocated``); else the resident
    memory of the whole process, libraries included.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here
