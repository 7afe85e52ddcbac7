"""What a training run has done so far: curves, times and totals, kept with the checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
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
    "forward_seconds",  # of the compute seconds, loss included
    "backward_seconds",
    "frames",  # of the encoder, or tokens, trained on, on this rank, without padding
    "measured_steps",  # optimizer steps
    "total_seconds",  # wall clock of the processes, set-up and evaluations included
    "audio_seconds",  # trained on, on this rank, without padding
    "padded_seconds",  # the same with padding
    "skipped_steps",
    "overflow_steps",
    "peak_memory_mb",
)


#: What an optimizer step takes and how long, in the mean since the last point of the curves.
PER_STEP = (
    "audio_hours",  # of all ranks, without padding
    "frames",  # likewise
    "padding_share",
    "data_seconds",
    "forward_seconds",
    "backward_seconds",
    "optimizer_seconds",
)
_SUMMED = ("audio_seconds", "padded_seconds", "frames")  # over the ranks
_SECONDS = tuple(name for name in PER_STEP if name.endswith("_seconds"))


@register_checkpoint_hooks
class TrainHistory:
    """Curves and totals of a run, across all its interruptions (rank 0's).

    Attributes:
        curves: "step" (optimizer steps), "loss" (mean since the last point), "lr" and "grad_norm"
            (before clipping), each a list with one value per `interval` optimizer steps.
        per_step: `PER_STEP`, each a list with a value for every point of the curves.
        epochs: what each epoch's end reported, in order.
        totals: sums over the whole run; see `TOTALS`.
        changes: where the run went on with other settings: the step, and what differed.
        last_step: number of the last optimizer step.

    Args:
        interval: optimizer steps between two points of the curves.
        sum_over_ranks: adds up each of some numbers over the ranks. It is called at the points
            only, which all ranks reach together.

    Raises:
        ValueError: the interval is below 1.
    """

    def __init__(
        self,
        interval: int = 10,
        sum_over_ranks: Callable[[list[float]], Sequence[float]] = list,
    ) -> None:
        if interval < 1:
            raise ValueError(f"curve_interval must be at least 1 optimizer step, not {interval}.")
        self.interval = interval
        self._sum_over_ranks = sum_over_ranks
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.per_step: dict[str, list[float]] = {name: [] for name in PER_STEP}
        self.epochs: list[dict[str, Any]] = []
        self.totals = dict.fromkeys(TOTALS, 0.0)
        self.changes: list[dict[str, Any]] = []
        self.last_step = 0
        self._losses: list[float] = []  # since the last point
        self._at_point = dict(self.totals)  # when the last point was made
        self._started = time.monotonic()

    def add_loss(self, loss: float) -> None:
        """Add the loss of one batch; a non-finite one belongs to a skipped step, and is not."""
        if math.isfinite(loss):
            self._losses.append(loss)

    def add_step(self, step: int, lr: float, grad_norm: float) -> None:
        """Add an optimizer step; it becomes a point of the curves at every interval."""
        self.last_step = step
        self.totals["measured_steps"] += 1
        if step % self.interval == 0 and self._losses:
            loss = sum(self._losses) / len(self._losses)
            for name, value in zip(CURVES, (step, loss, lr, grad_norm), strict=True):
                self.curves[name].append(value)
            self._losses = []
            for name, value in self._since_last_point().items():
                self.per_step[name].append(value)

    def _since_last_point(self) -> dict[str, float]:
        """`PER_STEP` in the mean since the last point, which becomes now."""
        new = {name: total - self._at_point[name] for name, total in self.totals.items()}
        self._at_point = dict(self.totals)
        return self._means(new, self._sum_over_ranks([new[name] for name in _SUMMED]))

    def step_means(self) -> dict[str, float]:
        """`PER_STEP` in the mean over the whole run, NaN before a step; call it on every rank."""
        return self._means(
            self.totals, self._sum_over_ranks([self.totals[name] for name in _SUMMED])
        )

    @staticmethod
    def _means(sums: Mapping[str, float], summed: Sequence[float]) -> dict[str, float]:
        audio, padded, frames = summed
        steps = sums["measured_steps"] or math.nan
        means = {"audio_hours": audio / 3600 / steps, "frames": frames / steps}
        means["padding_share"] = 1 - audio / padded if padded else math.nan
        return means | {name: sums[name] / steps for name in _SECONDS}

    def describe_last(self, steps: int, frame_unit: str) -> str:
        """The means of the points of the last optimizer steps, as one line of a log.

        Args:
            steps: how many, a multiple of the interval.
            frame_unit: what the frames are: "frames" or "tokens".
        """
        points = max(1, steps // self.interval)
        last = {
            name: sum(values[-points:]) / len(values[-points:])
            for name, values in {**self.curves, **self.per_step}.items()
        }
        parts = [f"loss {last['loss']:.4g}", f"lr {self.curves['lr'][-1]:.1e}"]
        hours, padding = last["audio_hours"], last["padding_share"]
        if hours > 0:
            audio = f"{hours:.2f} h" if hours >= 0.1 else f"{3600 * hours:.1f} s"
            parts += [f"{audio} of audio", f"{100 * padding:.0f} % padding"]
        if last["frames"] > 0:
            parts.append(f"{last['frames']:.0f} {frame_unit}")
        parts += [f"{last[name]:.2f} s {name.removesuffix('_seconds')}" for name in _SECONDS]
        return f"step {self.last_step}: {', '.join(parts)}"

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
            "per_step": self.per_step,
            "at_point": self._at_point,
            "epochs": self.epochs,
            "totals": self.totals,
            "changes": self.changes,
            "last_step": self.last_step,
            "losses": self._losses,
        }
        Path(path).write_text(json.dumps(state), encoding="utf-8")

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool = True) -> None:
        """Read what `save` wrote."""
        del end_of_epoch
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        self.curves, self.per_step = state["curves"], state["per_step"]
        self.epochs, self.changes = state["epochs"], state["changes"]
        self.totals, self._at_point = state["totals"], state["at_point"]
        self.last_step = state["last_step"]
        self._losses = state["losses"]
