"""What training without transcripts has in common, whatever its objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_all_reduce, if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.training.features import FeatureBrain

logger = get_logger(__name__)


class Monitor:
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

    def start_line(self) -> None:
        """Begins a line of the log."""
        self.recent = self._make()

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


class PretrainingBrain(FeatureBrain):
    """Base of Brains whose ``modules.model`` maps features and lengths to an output with a loss.

    A subclass makes the monitor and says what is suspicious in its figures; they are logged every
    ``log_interval`` steps and at the end of every stage. The best checkpoints are those with the
    highest ``accuracy``.
    """

    ranking = {"max_key": "accuracy"}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.monitors = Monitors(self.make_monitor)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("monitors", self.monitors)

    def architecture(self) -> dict[str, Any]:
        """As for every model, with the width that the encoder got where a recipe matches sizes."""
        return {**super().architecture(), **self.model.architecture()}

    def make_monitor(self) -> Monitor:
        """A monitor that has counted nothing."""
        raise NotImplementedError

    def warn(self, stats: Mapping[str, float]) -> None:
        """Warns if the figures of an evaluation say that nothing is learnt."""
        raise NotImplementedError

    def training_state(self) -> dict[str, float]:
        """Figures beside the monitor's that say how far the training is."""
        return {}

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Any:
        """Hides, encodes and predicts a batch; in evaluations with the same draws every time."""
        batch = batch.to(self.device, non_blocking=True)
        samples_BL, share_B = batch.sig
        features_BTF, lengths_B = self.features(samples_BL, share_B, stage)
        if stage == sb.Stage.TRAIN:
            return self.modules.model(features_BTF, lengths_B)
        cuda = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)
            return self.modules.model(features_BTF, lengths_B)

    def compute_objectives(self, predictions: Any, batch: Any, stage: sb.Stage) -> Tensor:
        """The loss; the monitors count."""
        self.monitors.stage.append(predictions)
        if stage == sb.Stage.TRAIN:
            self.monitors.recent.append(predictions)
        return predictions.loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh counts."""
        self.monitors.start()

    def on_fit_batch_end(self, batch: Any, outputs: Any, loss: Tensor, should_step: bool) -> None:
        """Logs the figures since the last such line, every ``log_interval`` optimizer steps."""
        if should_step and self.optimizer_step % self.log_interval == 0:
            stats = self.monitors.recent.summarise() | self.training_state()
            parts = [f"{name} {value:.4g}" for name, value in stats.items()]
            logger.info(f"step {self.optimizer_step}: {', '.join(parts)}")
            self.monitors.start_line()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage, warns of a collapse; after validation closes the epoch."""
        stats = {"loss": stage_loss, **self.monitors.stage.summarise()}
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats | self.training_state()
            return
        self.warn(stats)
        if stage == sb.Stage.VALID:
            assert epoch is not None
            self.end_epoch(epoch, self.train_stats, stats)
        else:
            self.test_stats = stats

    def evaluate_all(
        self, data: DynamicItemDataset, loader_kwargs: Mapping[str, Any]
    ) -> dict[str, float]:
        """Metrics of the best checkpoints on the validation set, ``valid_accuracy`` and others."""
        self.evaluate(data, **self.ranking, test_loader_kwargs=dict(loader_kwargs))
        return {f"valid_{name}": value for name, value in self.test_stats.items()}
