"""Scoring of test sets, timed: what Brains of recognisers and of classifiers share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.training.features import FeatureBrain

logger = get_logger(__name__)


class CountedBrain(FeatureBrain):
    """Base of Brains that say in result.json of how many utterances their scores are.

    Attributes:
        test_utterances: of each test set, how many were scored.
        test_missing: how many of its utterances were not: a file cannot be used, or ``--debug``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.test_utterances: dict[str, int] = {}
        self.test_missing: dict[str, int] = {}

    def count_test_set(self, name: str, data: DynamicItemDataset, scored: int) -> None:
        """Notes how much of a test set was scored.

        Args:
            name: of the set.
            data: with what preparation has left of it.
            scored: utterances.
        """
        listed = len(data) + getattr(data, "left_out", 0)
        self.test_utterances[name], self.test_missing[name] = scored, listed - scored
        if scored < listed:
            logger.warning(f"{name}: {listed - scored} of {listed} utterances are not scored")

    def finish(
        self,
        metrics: Mapping[str, float],
        real_time_factor: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As in the base; with the sizes of the test sets."""
        counts = {"test_utterances": self.test_utterances, "test_missing": self.test_missing}
        return super().finish(metrics, real_time_factor, {**(extra or {}), **counts})


class ScoredBrain(CountedBrain):
    """Base of Brains that count while they evaluate; a subclass tells its `scores`."""

    #: Entry of the metrics → the score of the first test set that it repeats.
    headlines: ClassVar[dict[str, str]]

    def scores(self) -> dict[str, float]:
        """What was counted in the evaluation that ends."""
        raise NotImplementedError

    def write_details(self, name: str, folder: Path, single: bool) -> None:
        """Write what was found in a test set; called on the main process.

        Args:
            name: of the set.
            folder: where to.
            single: it is the only one.
        """
        raise NotImplementedError

    def evaluate_batch(self, batch: Any, stage: sb.Stage) -> Tensor:
        """As SpeechBrain's, and times the work for the real-time factor."""
        started = time.perf_counter()
        loss = super().evaluate_batch(batch, stage)
        self._seconds += time.perf_counter() - started
        self._scored += len(batch)
        self._audio_seconds += self.batch_seconds(batch)[0] if len(batch) else 0.0
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Nothing timed or counted yet."""
        self._seconds = self._audio_seconds = 0.0
        self._scored = 0

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage; after validation closes the epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        stats = {"loss": stage_loss, **self.scores()}
        if stage == sb.Stage.VALID:
            assert epoch is not None
            self.end_epoch(epoch, {"loss": self.train_loss}, stats)
        else:
            self.test_stats = stats

    def evaluate_all(
        self,
        test_sets: Mapping[str, DynamicItemDataset],
        loader_kwargs: Mapping[str, Any],
    ) -> tuple[dict[str, float], float]:
        """Scores every test set with the best checkpoints and writes the details.

        Args:
            test_sets: name → data.
            loader_kwargs: of the DataLoader.

        Returns:
            metrics (``SET_SCORE`` in percent, and the `headlines` of the first set) and the
            real-time factor over all sets.
        """
        metrics: dict[str, float] = {}
        seconds = audio_seconds = 0.0
        for name, data in test_sets.items():
            self.evaluate(data, **self.ranking, test_loader_kwargs=dict(loader_kwargs))
            self.count_test_set(name, data, self._scored)
            metrics |= {f"{name}_{key.lower()}": value for key, value in self.test_stats.items()}
            for key, score in self.headlines.items():
                metrics.setdefault(key, self.test_stats[score])
            seconds, audio_seconds = seconds + self._seconds, audio_seconds + self._audio_seconds
            if self.output_folder is not None and if_main_process():
                self.write_details(name, Path(self.output_folder), len(test_sets) == 1)
        return metrics, seconds / max(audio_seconds, 1e-9)
