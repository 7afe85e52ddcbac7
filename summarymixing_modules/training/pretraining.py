"""What training without transcripts has in common, whatever its objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.training.features import FeatureBrain

logger = get_logger(__name__)


class Monitor(Protocol):
    """Counts over a stage, on all ranks."""

    def append(self, output: Any) -> None:
        """Counts a batch."""

    def summarise(self) -> dict[str, float]:
        """What was counted, ``accuracy`` in percent among it; call it on every rank."""


class PretrainingBrain(FeatureBrain):
    """Base of Brains whose ``modules.model`` maps features and lengths to an output with a loss.

    A subclass makes the monitor and says what is suspicious in its figures; they are logged every
    ``log_interval`` steps and at the end of every stage. The best checkpoints are those with the
    highest ``accuracy``.
    """

    ranking = {"max_key": "accuracy"}

    def architecture(self) -> dict[str, Any]:
        """As for every model, with the width that the encoder got where a recipe matches sizes."""
        return {**super().architecture(), **self.model.architecture()}

    def make_monitor(self) -> Monitor:
        """A monitor for a stage."""
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
        self.monitor.append(predictions)
        if stage == sb.Stage.TRAIN:
            self.recent.append(predictions)
        return predictions.loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh counts."""
        self.monitor, self.recent = self.make_monitor(), self.make_monitor()

    def on_fit_batch_end(self, batch: Any, outputs: Any, loss: Tensor, should_step: bool) -> None:
        """Logs the figures since the last such line, every ``log_interval`` optimizer steps."""
        if should_step and self.optimizer_step % self.log_interval == 0:
            stats = self.recent.summarise() | self.training_state()
            parts = [f"{name} {value:.4g}" for name, value in stats.items()]
            logger.info(f"step {self.optimizer_step}: {', '.join(parts)}")
            self.recent = self.make_monitor()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage, warns of a collapse; after validation closes the epoch."""
        stats = {"loss": stage_loss, **self.monitor.summarise()}
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
