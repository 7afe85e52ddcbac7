"""What every Brain of speech recognition shares: error rates and alignments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import ErrorRateStats

from summarymixing_modules.data.tokenizers import Tokenizer
from summarymixing_modules.training.error_rates import ErrorRate, split_words
from summarymixing_modules.training.scored import ScoredBrain

logger = get_logger(__name__)


class RecognitionBrain(ScoredBrain):
    """Base of the recognisers' Brains; a subclass writes the forward pass and the loss.

    ``modules`` holds ``model`` and ``normalize``.
    """

    ranking: ClassVar[dict[str, str]] = {"min_key": "WER"}
    headlines: ClassVar[dict[str, str]] = {"test_wer": "WER"}

    tokenizer: Tokenizer

    def score(self, batch: Any, texts: Sequence[str]) -> None:
        """Counts the errors of a batch's transcripts in words and characters."""
        for utterance, text, reference in zip(batch.id, texts, batch.wrd, strict=True):
            self.wer.append(split_words(text), split_words(reference))
            self.cer.append(text, reference)
            self._transcripts.append((utterance, text, reference))

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh scores for every evaluation."""
        super().on_stage_start(stage, epoch)
        self.wer, self.cer = ErrorRate(), ErrorRate()
        self._transcripts: list[tuple[str, str, str]] = []

    def scores(self) -> dict[str, float]:
        """Error rates in percent; NaN where nothing was decoded."""
        return {"WER": self.wer.percent, "CER": self.cer.percent}

    def write_details(self, name: str, folder: Path, single: bool) -> None:
        """Writes the alignments of a test set, with its insertions, deletions and substitutions."""
        aligned = ErrorRateStats()
        for utterance, text, reference in self._transcripts:
            aligned.append([utterance], [split_words(text)], [split_words(reference)])
        path = folder / f"wer_{name}.txt"
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as stream:
            aligned.write_stats(stream)
        partial.replace(path)
        logger.info(f"WER on {name}: {self.test_stats['WER']:.2f} % (alignments: {path})")
