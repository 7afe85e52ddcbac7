"""What is counted while a model trains without labels, so that a collapse is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speechbrain import Stage
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_all_reduce, if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.training.scores.score import Score

logger = get_logger(__name__)


class Monitor(Score):
    """Counts over a stage, on all ranks.

    It counts on the device and is read when it is summarised: a CPU does not wait for a GPU.

    Args:
        size: N.
        device: where the outputs are.

    Attributes:
        sums_N: all that is counted, on this rank.
    """

    def __init__(self, size: int, device: str) -> None:
        self.sums_N = torch.zeros(size, dtype=torch.float64, device=device)

    def append(self, output: Any) -> None:
        """Counts a batch."""
        raise NotImplementedError

    def describe(self, sums_N: Tensor) -> dict[str, float]:
        """What sums on the CPU say, ``accuracy`` in percent among it."""
        raise NotImplementedError

    def warnings(self, stats: Mapping[str, float]) -> list[str]:
        """What the figures of an evaluation say, if it is that nothing is learnt."""
        raise NotImplementedError

    def over_ranks(self) -> Tensor:
        """The sums over all ranks, on the CPU; call it on every rank."""
        summed_N = ddp_all_reduce(self.sums_N.clone(), torch.distributed.ReduceOp.SUM)
        return summed_N.cpu()

    def summarise(self) -> dict[str, float]:
        """What was counted on all ranks; call it on every rank."""
        return self.describe(self.over_ranks())


@partial(register_checkpoint_hooks, save_on_main_only=False)
class Monitors:
    """Two monitors as a recoverable, so that a resumed epoch reports all of it.

    Args:
        make: a monitor that has counted nothing.

    Attributes:
        stage: of the whole stage.
        recent: since the last line of the log.
    """

    def __init__(self, make: Callable[[], Monitor]) -> None:
        self._make = make
        self._loaded: list[Tensor] = []
        self.start()

    def start(self) -> None:
        """Begins a stage; one that a checkpoint lies in with what was counted before."""
        self.stage, self.recent = self._make(), self._make()
        for monitor, sums_N in zip((self.stage, self.recent), self._loaded, strict=False):
            monitor.sums_N += sums_N.to(monitor.sums_N.device)
        self._loaded = []

    def append(self, output: Any, stage: Stage) -> None:
        """Counts a batch."""
        self.stage.append(output)
        if stage == Stage.TRAIN:
            self.recent.append(output)

    def summarise(self, warn: bool) -> dict[str, float]:
        """What was counted in the stage; call it on every rank.

        Args:
            warn: if the figures say that nothing is learnt.
        """
        stats = self.stage.summarise()
        for warning in self.stage.warnings(stats) if warn else []:
            logger.warning(warning)
        return stats

    def take_recent(self) -> dict[str, float]:
        """What was counted since the last call; call it on every rank."""
        stats = self.recent.summarise()
        self.recent = self._make()
        return stats

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Writes the sums over the ranks."""
        sums = [monitor.over_ranks() for monitor in (self.stage, self.recent)]
        if if_main_process():
            torch.save(sums, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Reads them for the stage that begins next, on one rank of whatever number there is."""
        if if_main_process() and not end_of_epoch:
            self._loaded = torch.load(path, map_location="cpu", weights_only=True)
