"""What every Brain of speech recognition shares: error rates and alignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import ErrorRateStats
from torch import Tensor

from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.models.features.frontend import RUNNING
from summarymixing_modules.models.features.valid_frontend import real_frames
from summarymixing_modules.training.data.audio import AudioData, with_train
from summarymixing_modules.training.scored import ScoredBrain
from summarymixing_modules.training.scores.ctc_lengths import report_too_short, too_short_for_ctc
from summarymixing_modules.training.scores.error_rates import ErrorRate, split_words

logger = get_logger(__name__)


class RecognitionBrain(ScoredBrain):
    """Base of the recognisers' Brains; a subclass writes the forward pass and the loss.

    ``modules`` holds ``model`` and ``normalize``.
    """

    ranking: ClassVar[dict[str, str]] = {"min_key": "WER"}
    headlines: ClassVar[dict[str, str]] = {"test_wer": "WER"}

    #: The loss is CTC's alone: nothing can be learnt from utterances that it cannot spell.
    ctc_alone: ClassVar[bool] = False

    tokenizer: Tokenizer
    #: Training utterances that CTC cannot spell, see `ctc_lengths`.
    ctc_too_short = 0

    def uses_ctc(self) -> bool:
        """Whether CTC has a part in the loss."""
        return self.ctc_alone

    def encoder_frames(self, samples_N: Tensor) -> Tensor | None:
        """Frames of the encoder's output for numbers of samples; None if nothing tells them."""
        lengths = getattr(getattr(self.model, "frontend", None), "lengths", None)
        if lengths is None:
            return None
        return lengths(real_frames(self.hparams.compute_features, samples_N, RUNNING))

    def fit_on(self, data: AudioData) -> None:
        """As in the base; training utterances that CTC cannot spell are named.

        They are left out if the loss is CTC's alone. Otherwise they stay: its part is 0 for them.
        """
        if self.uses_ctc() and not self.test_only:
            data = self._told_too_short(data)
        super().fit_on(data)

    def _told_too_short(self, data: AudioData) -> AudioData:
        train = data.datasets.train
        samples_N = torch.from_numpy((train.durations * self.hparams.sample_rate).round()).long()
        frames_N = self.encoder_frames(samples_N)
        if frames_N is None:
            logger.info("The front end tells no lengths: none is compared with the transcripts.")
            return data
        found = list(too_short_for_ctc(train, self.tokenizer, frames_N.numpy()))
        self.ctc_too_short = len(found)
        if not found:
            return data
        report_too_short(found, len(train), self.ctc_alone, self.output_folder)
        if not self.ctc_alone:
            return data
        kept = train.subset(np.delete(train.places, [utterance.index for utterance in found]))
        return with_train(data, kept, vars(self.hparams))

    def finish(
        self,
        metrics: Mapping[str, float],
        real_time_factor: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As in the base, with ``ctc_too_short``."""
        own = {"ctc_too_short": self.ctc_too_short} if self.uses_ctc() else {}
        return super().finish(metrics, real_time_factor, {**(extra or {}), **own})

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
