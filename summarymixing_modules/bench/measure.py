"""Timing in interleaved rounds, and the memory that is taken or kept."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Timing:
    """Seconds of one case over the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds is below the first, a quarter above the second."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{1e3 * self.median:.1f} ms ({1e3 * low:.1f}–{1e3 * high:.1f})"


def time_interleaved(
    cases: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warm_up: int = 1,
    device: torch.device | str = "cpu",
) -> dict[str, Timing]:
    """Times cases in turn, A B A B …, so that ratios hold while the machine's speed drifts.

    Args:
        cases: name → what to time.
        rounds: counted runs of each.
        warm_up: runs before those.
        device: where they run; a CUDA device is timed by its own clock.

    Returns:
        the timing of each case.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warm_up + rounds):
        for name, run in cases.items():
            taken = seconds_of(run, device)
            if turn >= warm_up:
                seconds[name].append(taken)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def seconds_of(run: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds that ``run`` takes: wall clock, or between two events on a CUDA device's stream."""
    device = torch.device(device)
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3  # it counts milliseconds


def paired_ratio(timings: Mapping[str, Timing], slow: str, fast: str) -> float:
    """Median over the rounds of slow / fast."""
    pairs = zip(timings[slow].seconds, timings[fast].seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def forward_backward(module: Callable[..., Tensor], x: Tensor, *arguments: object) -> None:
    """One training step's work without the optimizer."""
    x = x.detach().requires_grad_()
    y = module(x, *arguments)
    y.backward(torch.ones_like(y))


def kept_bytes(forward: Callable[[], Tensor], module: nn.Module) -> int:
    """Bytes of the tensors that a forward pass keeps for backward, parameters not counted."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    for parameter in module.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del output
    return sum(kept.values())


def peak_memory(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes that ``run`` takes at one time beside those that were taken before.

    On a CUDA device what its allocator says, scratch memory included; else ``peak_bytes``.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return peak_bytes(run)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that tensors made while ``run`` runs take at one time; on any device.

    Counts what operators return; scratch memory inside one operator is not seen.
    """
    with _LiveStorages() as live:
        run()
    return live.peak


class _LiveStorages(TorchDispatchMode):
    """Adds up the storages that operators return, until each is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if id(storage) not in given | self._known:
                self._known.add(id(storage))
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _freed(self, storage: int, nbytes: int) -> None:
        self._known.discard(storage)
        self.live -= nbytes


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def log_log_slope(lengths: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares exponent p of value ∝ length^p."""
    xs, ys = [math.log(v) for v in lengths], [math.log(v) for v in values]
    x_mean, y_mean = statistics.fmean(xs), statistics.fmean(ys)
    over = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - x_mean) ** 2 for x in xs)
