"""Training and scoring of acoustic models with CTC (Graves et al., ICML 2006).

Shape suffixes: B batch, T frames, F features, L samples, U tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from torch import Tensor

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.training.asr import RecognitionBrain


class CTCBrain(RecognitionBrain):
    """Brain of CTC recipes; ``modules.model`` is a ``CTCModel``."""

    ctc_alone: ClassVar[bool] = True
    known_keys: ClassVar[frozenset[str]] = RecognitionBrain.known_keys | {
        "test_beam_size",  # 1 decodes greedily
        "test_beam_options",  # more arguments of SpeechBrain's CTCBeamSearcher
    }

    _searcher: CTCBeamSearcher | None = None

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) of a batch and the real frames of each utterance."""
        batch = batch.to(self.device)
        samples_BL, share_B = batch.sig
        features_BTF, lengths_B = self.features(samples_BL, share_B, stage)
        return self.modules.model(features_BTF, lengths_B, self.chunk_config(stage))

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
            self.score(batch, self._decode(log_probs_BTV, share_B, stage))
        return loss

    def _decode(self, log_probs_BTV: Tensor, share_B: Tensor, stage: sb.Stage) -> list[str]:
        """Best transcripts: greedy while validating, in the test with the beam asked for."""
        if stage == sb.Stage.TEST and self.option("test_beam_size", 1) > 1:
            return [best[0].text.strip() for best in self._beam_search(log_probs_BTV, share_B)]
        rows = ctc_greedy_decode(log_probs_BTV, share_B, blank_id=BLANK_INDEX)
        return [self.tokenizer.decode(row).strip() for row in rows]

    def _beam_search(self, log_probs_BTV: Tensor, share_B: Tensor) -> Any:
        if self._searcher is None:
            self._searcher = CTCBeamSearcher(
                blank_index=BLANK_INDEX,
                vocab_list=self.tokenizer.pieces(),
                beam_size=int(self.hparams.test_beam_size),
                **(self.option("test_beam_options") or {}),
            )
        return self._searcher(log_probs_BTV, share_B)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """As in the base, and a fresh searcher."""
        super().on_stage_start(stage, epoch)
        self._searcher = None
