"""What every Brain of speech recognition shares: error rates and evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import ErrorRateStats
from torch import Tensor

from summarymixing_modules.data.tokenizers import Tokenizer
from summarymixing_modules.training.features import FeatureBrain

logger = get_logger(__name__)


class RecognitionBrain(FeatureBrain):
    """Base of the recognisers' Brains; a subclass writes the forward pass and the loss.

    ``modules`` holds ``model`` and ``normalize``.
    """

    ranking: ClassVar[dict[str, str]] = {"min_key": "WER"}

    tokenizer: Tokenizer

    def score(self, batch: Any, texts: Sequence[str]) -> None:
        """Counts the errors of a batch's transcripts in words and characters."""
        words = [text.split(" ") for text in texts]
        self.wer.append(batch.id, words, [text.split(" ") for text in batch.wrd])
        self.cer.append(batch.id, [list(text) for text in texts], [list(t) for t in batch.wrd])

    def evaluate_batch(self, batch: Any, stage: sb.Stage) -> Tensor:
        """As SpeechBrain's, and times the work for the real-time factor."""
        started = time.perf_counter()
        loss = super().evaluate_batch(batch, stage)
        self._seconds += time.perf_counter() - started
        self._audio_seconds += self.batch_seconds(batch)[0] if len(batch) else 0.0
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh scores for every evaluation."""
        self._seconds = self._audio_seconds = 0.0
        if stage != sb.Stage.TRAIN:
            self.wer, self.cer = ErrorRateStats(), ErrorRateStats()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage; after validation closes the epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        stats = {"loss": stage_loss, "WER": _rate(self.wer), "CER": _rate(self.cer)}
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
        """Scores every test set with the best checkpoints and writes its alignments.

        Args:
            test_sets: name → data.
            loader_kwargs: of the DataLoader.

        Returns:
            metrics (``test-clean_wer`` … in percent, ``test_wer`` of the first set) and the
            real-time factor over all sets.
        """
        metrics: dict[str, float] = {}
        seconds = audio_seconds = 0.0
        for name, data in test_sets.items():
            self.evaluate(data, **self.ranking, test_loader_kwargs=dict(loader_kwargs))
            metrics |= {f"{name}_{key.lower()}": value for key, value in self.test_stats.items()}
            metrics.setdefault("test_wer", self.test_stats["WER"])
            seconds, audio_seconds = seconds + self._seconds, audio_seconds + self._audio_seconds
            self._write_alignments(name)
        return metrics, seconds / max(audio_seconds, 1e-9)

    def _write_alignments(self, name: str) -> None:
        if self.output_folder is None or not if_main_process():
            return
        path = Path(self.output_folder) / f"wer_{name}.txt"
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as stream:
            self.wer.write_stats(stream)
        partial.replace(path)
        logger.info(f"WER on {name}: {self.test_stats['WER']:.2f} % (alignments: {path})")


def _rate(stats: ErrorRateStats) -> float:
    return float(stats.summarize("error_rate")) if stats.scores else float("nan")
