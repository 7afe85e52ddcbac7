"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch

from summarymixing_modules.training.run.history import TrainHistory

COMPUTE = ("forward", "backward")


class StepClock:
    """Splits the time of training among its parts, in a history's totals.

    On a GPU the work is asynchronous. Laps are marked there by events in the queue of work, which
    nobody waits for: what is added is the time between them as the GPU saw it, when they are over.
    What the GPU waits for (a batch, say) belongs to the part in which it waits.

    Args:
        history: whose totals.
        device: what the training runs on, such as "cpu" or "cuda:0".
    """

    def __init__(self, history: TrainHistory, device: str = "cpu") -> None:
        self._history = history
        self._cuda = device.startswith("cuda")
        self._ahead: deque[tuple[str | None, Any]] = deque()  # laps that the GPU may not have ended
        self._last = self._mark()

    def _mark(self) -> Any:
        if not self._cuda:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def restart(self) -> None:
        """Count from now: what came before belongs to none of the parts."""
        self._ahead.append((None, self._mark()))
        self.settle()

    def lap(self, part: str) -> None:
        """Add the time since the last lap to "data", "forward", "backward" or "optimizer"."""
        self._ahead.append((part, self._mark()))
        self.settle()

    def settle(self) -> None:
        """Add what is over by now."""
        totals = self._history.totals
        while self._ahead and (not self._cuda or self._ahead[0][1].query()):
            part, mark = self._ahead.popleft()
            if part is not None:
                seconds = self._seconds(self._last, mark)
                totals[f"{part}_seconds"] += seconds
                if part in COMPUTE:
                    totals["compute_seconds"] += seconds
            self._last = mark

    def _seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1000 if self._cuda else end - start
