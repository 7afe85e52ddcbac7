"""Training and scoring of acoustic models with CTC (Graves et al., ICML 2006).

Shape suffixes: B batch, T frames, F features, L samples, U tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import ErrorRateStats
from torch import Tensor

from summarymixing_modules.data.tokenizers import BLANK_INDEX, Tokenizer
from summarymixing_modules.models.ctc import feature_lengths
from summarymixing_modules.training.brain import SafeBrain

logger = get_logger(__name__)


class CTCBrain(SafeBrain):
    """Brain of CTC recipes.

    ``modules`` holds ``model`` (a ``CTCModel``) and ``normalize`` (SpeechBrain's
    ``InputNormalization``). Keys of ``hparams``: those of ``known_keys``.
    """

    known_keys: ClassVar[frozenset[str]] = SafeBrain.known_keys | {
        "compute_features",  # samples → filterbanks
        "wav_augment",  # on samples; null for none
        "fea_augment",  # on filterbanks; null for none
        "dynchunktrain_config_sampler",  # draws chunk settings; null for full context
        "test_beam_size",  # 1 decodes greedily
        "test_beam_options",  # more arguments of SpeechBrain's CTCBeamSearcher
        "epoch_counter",
        "encoder_module",
    }
    architecture_keys = (*SafeBrain.architecture_keys, "encoder_module")

    tokenizer: Tokenizer
    _searcher: CTCBeamSearcher | None = None

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) of a batch and the real frames of each utterance."""
        batch = batch.to(self.device)
        samples_BL, share_B = batch.sig
        features_BTF, lengths_B = self._features(samples_BL, share_B, stage)
        config = None
        if self._option("dynchunktrain_config_sampler") is not None:
            config = self.hparams.dynchunktrain_config_sampler(stage)
        return self.modules.model(features_BTF, lengths_B, config)

    def _features(
        self, samples_BL: Tensor, share_B: Tensor, stage: sb.Stage
    ) -> tuple[Tensor, Tensor]:
        """Normalised, in training augmented, filterbanks and their real lengths in frames."""
        train = stage == sb.Stage.TRAIN
        if train and self._option("wav_augment") is not None:
            samples_BL, share_B = self.hparams.wav_augment(samples_BL, share_B)
        with torch.no_grad():
            features_BTF = self.hparams.compute_features(samples_BL)
        frames = features_BTF.shape[1]
        hop = self.hparams.compute_features.compute_STFT.hop_length
        lengths_B = feature_lengths((share_B * samples_BL.shape[1]).round().long(), hop, frames)
        features_BTF = self.modules.normalize(features_BTF, lengths_B / frames, epoch=self.epoch)
        if train and self._option("fea_augment") is not None:
            features_BTF, _ = self.hparams.fea_augment(features_BTF, lengths_B / frames)
        return features_BTF, lengths_B

    def compute_objectives(
        self, predictions: tuple[Tensor, Tensor], batch: Any, stage: sb.Stage
    ) -> Tensor:
        """The CTC loss; in evaluation also decodes and scores."""
        log_probs_BTV, lengths_B = predictions
        share_B = lengths_B / log_probs_BTV.shape[1]
        tokens_BU, token_share_B = batch.tokens
        loss = sb.nnet.losses.ctc_loss(
            log_probs_BTV, tokens_BU, share_B, token_share_B, BLANK_INDEX
        )
        if stage != sb.Stage.TRAIN:
            texts = self._decode(log_probs_BTV, share_B, stage)
            references = [text.split(" ") for text in batch.wrd]
            self.wer.append(batch.id, [text.split(" ") for text in texts], references)
            self.cer.append(batch.id, [list(text) for text in texts], [list(t) for t in batch.wrd])
        return loss

    def _decode(self, log_probs_BTV: Tensor, share_B: Tensor, stage: sb.Stage) -> list[str]:
        """Best transcripts: greedy while validating, in the test with the beam asked for."""
        if stage == sb.Stage.TEST and self._option("test_beam_size", 1) > 1:
            return [best[0].text.strip() for best in self._beam_search(log_probs_BTV, share_B)]
        rows = ctc_greedy_decode(log_probs_BTV, share_B, blank_id=BLANK_INDEX)
        return [self.tokenizer.decode(row).strip() for row in rows]

    def _beam_search(self, log_probs_BTV: Tensor, share_B: Tensor) -> Any:
        if self._searcher is None:
            self._searcher = CTCBeamSearcher(
                blank_index=BLANK_INDEX,
                vocab_list=self.tokenizer.pieces(),
                beam_size=int(self.hparams.test_beam_size),
                **(self._option("test_beam_options") or {}),
            )
        return self._searcher(log_probs_BTV, share_B)

    def evaluate_batch(self, batch: Any, stage: sb.Stage) -> Tensor:
        """As SpeechBrain's, and times the work for the real-time factor."""
        started = time.perf_counter()
        loss = super().evaluate_batch(batch, stage)
        self._seconds += time.perf_counter() - started
        self._audio_seconds += self.batch_seconds(batch)[0] if len(batch) else 0.0
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh scores for every evaluation."""
        self._searcher = None
        self._seconds = self._audio_seconds = 0.0
        if stage != sb.Stage.TRAIN:
            self.wer, self.cer = ErrorRateStats(), ErrorRateStats()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage; after validation closes the epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        stats = {"loss": stage_loss, "WER": self._rate(self.wer), "CER": self._rate(self.cer)}
        if stage == sb.Stage.VALID:
            assert epoch is not None
            self.end_epoch(epoch, {"loss": self.train_loss}, stats, min_keys=["WER"])
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
            self.evaluate(data, min_key="WER", test_loader_kwargs=dict(loader_kwargs))
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

    @staticmethod
    def _rate(stats: ErrorRateStats) -> float:
        return float(stats.summarize("error_rate")) if stats.scores else float("nan")

    def _option(self, key: str, default: Any = None) -> Any:
        return getattr(self.hparams, key, default)
