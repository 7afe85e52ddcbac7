"""What memory there is, and what a case will want of it, told from shorter lengths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

SHARE = 0.8  # of the available memory that is used without being asked to
GIB, MIB = 2**30, 2**20
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Main memory that can be taken now, the limit of a container included."""
    limits = []
    if _MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        limits.append(1024 * int(lines["MemAvailable"].split()[0]))
    else:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    most, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if most.exists() and used.exists() and (text := most.read_text().strip()) != "max":
        limits.append(max(0, int(text) - int(used.read_text())))
    return min(limits)


def predict_peak(known: Mapping[float, int], seconds: float) -> float:
    """Peak bytes at a length: the parabola through the nearest three shorter lengths.

    Time × time matrices grow with the square of the length, all else with the length.

    Args:
        known: length in seconds → peak bytes; at least two.
        seconds: a length beyond them.
    """
    points = sorted(known.items())[-3:]
    if len(points) == 3:
        (x0, y0), (x1, y1), (x2, y2) = points
        curve = ((y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)) / (x2 - x0)
        if curve > 0:  # below it, blocks were rounded up at short lengths
            slope = (y2 - y1) / (x2 - x1)
            return y2 + (seconds - x2) * (slope + curve * (seconds - x1))
    (x0, y0), (x1, y1) = points[-2:]
    return y1 + max(0.0, (y1 - y0) / (x1 - x0)) * (seconds - x1)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's or the CPU's allocator had no more."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error)
