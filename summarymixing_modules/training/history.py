"""What a training run has done so far: curves, times and totals, kept with the checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

CURVES = ("step", "loss", "lr", "grad_norm")
TOTALS = (
    "data_seconds",  # waiting for batches
    "compute_seconds",  # forward and backward passes
    "optimizer_seconds",
    "total_seconds",  # wall clock of the processes, set-up and evaluations included
    "audio_seconds",  # trained on, on this rank, without padding
    "padded_seconds",  # the same with padding
    "skipped_steps",
    "overflow_steps",
    "peak_memory_mb",
)


@register_checkpoint_hooks
class TrainHistory:
    """Curves and totals of a run, across all its interruptions (rank 0's).

    Attributes:
        curves: "step" (optimizer steps), "loss" (mean since the last point), "lr" and "grad_norm"
            (before clipping), each a list with one value per `interval` optimizer steps.
        epochs: what each epoch's end reported, in order.
        totals: sums over the whole run; see `TOTALS`.
        last_step: number of the last optimizer step.

    Args:
        interval: optimizer steps between two points of the curves.

    Raises:
        ValueError: the interval is below 1.
    """

    def __init__(self, interval: int = 10) -> None:
        if interval < 1:
            raise ValueError(f"curve_interval must be at least 1 optimizer step, not {interval}.")
        self.interval = interval
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.epochs: list[dict[str, Any]] = []
        self.totals = dict.fromkeys(TOTALS, 0.0)
        self.last_step = 0
        self._losses: list[float] = []  # since the last point
        self._started = time.monotonic()

    def add_loss(self, loss: float) -> None:
        """Add the loss of one batch; a non-finite one belongs to a skipped step, and is not."""
        if math.isfinite(loss):
            self._losses.append(loss)

    def add_step(self, step: int, lr: float, grad_norm: float) -> None:
        """Add an optimizer step; it becomes a point of the curves at every interval."""
        self.last_step = step
        if step % self.interval == 0 and self._losses:
            loss = sum(self._losses) / len(self._losses)
            for name, value in zip(CURVES, (step, loss, lr, grad_norm), strict=True):
                self.curves[name].append(value)
            self._losses = []

    def add_epoch(self, epoch: int, step: int, stats: Mapping[str, Any]) -> None:
        """Add what an epoch's end reports, with the totals up to there."""
        self.count_time()
        self.epochs.append({"epoch": epoch, "step": step, **stats, "totals": dict(self.totals)})

    def count_time(self) -> None:
        """Bring the total of wall clock seconds up to now."""
        now = time.monotonic()
        self.totals["total_seconds"] += now - self._started
        self._started = now

    @property
    def train_seconds(self) -> float:
        """Seconds of training: data, forward, backward and optimizer."""
        parts = ("data_seconds", "compute_seconds", "optimizer_seconds")
        return sum(self.totals[part] for part in parts)

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        self.count_time()
        state = {
            "curves": self.curves,
            "epochs": self.epochs,
            "totals": self.totals,
            "last_step": self.last_step,
            "losses": self._losses,
        }
        Path(path).write_text(json.dumps(state), encoding="utf-8")

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool = True) -> None:
        """Read what `save` wrote; totals that are new since then start at 0."""
        del end_of_epoch
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        self.curves = state["curves"]
        self.epochs = state["epochs"]
        self.totals = dict.fromkeys(TOTALS, 0.0) | state["totals"]
        self.last_step = state["last_step"]
        self._losses = state["losses"]


class StepClock:
    """Splits the time of training among its parts, in a history's totals.

    On a GPU the work is asynchronous: reading the loss waits for the forward pass, and reading the
    gradient norm for the backward pass, so these two are exact; of the optimizer only the launch
    is seen, and the rest counts as the next step's compute.
    """

    def __init__(self, history: TrainHistory) -> None:
        self._history = history
        self._last = time.monotonic()

    def restart(self) -> None:
        """Count from now: what came before belongs to none of the parts."""
        self._last = time.monotonic()

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part: "data", "compute" or "optimizer"."""
        now = time.monotonic()
        self._history.totals[f"{part}_seconds"] += now - self._last
        self._last = now
