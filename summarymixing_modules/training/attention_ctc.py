"""Training and scoring of recognisers with a decoder and a CTC head.

Loss (Watanabe et al., IEEE JSTSP 2017): λ · CTC + (1 − λ) · cross-entropy of the decoder, each the
sum over an utterance, then the mean over the batch.

Shape suffixes: B batch, T frames, U tokens, D model features, V vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import speechbrain as sb
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.asr.attention_ctc import AttentionCTCOutput
from summarymixing_modules.models.asr.attention_search import Searcher, make_searcher
from summarymixing_modules.training.asr import RecognitionBrain


class AttentionCTCBrain(RecognitionBrain):
    """Brain of attention + CTC recipes; ``modules.model`` is an ``AttentionCTCModel``.

    Every validation measures ACC, the percentage of tokens that the teacher-forced decoder gets
    right; a search, which gives the error rates, takes longer and is made every
    ``valid_search_interval`` epochs. The best checkpoints are those of the highest ACC, as in
    SpeechBrain's recipes.

    Attributes:
        language_model: scores tokens in the search of the test; None for none.
    """

    known_keys: ClassVar[frozenset[str]] = RecognitionBrain.known_keys | {
        "ctc_weight",  # λ of the loss
        "label_smoothing",
        "valid_search_interval",  # epochs
        "valid_beam_size",  # 1 decodes greedily, with the decoder alone
        "test_beam_size",
        "ctc_weight_decode",  # of the CTC score in the search
        "lm_folder",
        "lm_weight",
        "temperature",  # of the decoder's distribution in the search
        "lm_temperature",
        "scorer_beam_scale",  # tokens that CTC scores per hypothesis, in beams
        "min_decode_ratio",  # tokens per encoder frame
        "max_decode_ratio",
    }
    architecture_keys = (
        *RecognitionBrain.architecture_keys,
        "num_decoder_layers",
        "decoder_attention",
        "decoder_nhead",
    )

    ranking = {"max_key": "ACC"}  # not every epoch has an error rate

    language_model: nn.Module | None = None
    _searcher: Searcher | None = None

    def compute_forward(self, batch: Any, stage: sb.Stage) -> AttentionCTCOutput:
        """Log-probabilities of both heads for a batch, and the encoder's output."""
        batch = batch.to(self.device)
        samples_BL, share_B = batch.sig
        features_BTF, lengths_B = self.features(samples_BL, share_B, stage)
        return self.modules.model(
            features_BTF, lengths_B, batch.tokens_bos.data, self.chunk_config(stage)
        )

    def compute_objectives(
        self, predictions: AttentionCTCOutput, batch: Any, stage: sb.Stage
    ) -> Tensor:
        """The joint loss; in evaluation also counts what is right, and searches when it is time."""
        share_B = predictions.lengths_B / predictions.ctc_BTV.shape[1]
        loss = joint_loss(
            predictions,
            batch.tokens,
            batch.tokens_eos.data,
            self.hparams.ctc_weight,
            self.hparams.label_smoothing,
        )
        if stage != sb.Stage.TRAIN:
            self._count_right(predictions.seq_BUV, batch.tokens_eos.data)
            if self._searcher is not None:
                rows = self._searcher(predictions.encoded_BTD.float(), share_B)[0]
                self.score(batch, [self.tokenizer.decode(row).strip() for row in rows])
        return loss

    def uses_ctc(self) -> bool:
        """With ``ctc_weight``."""
        return self.hparams.ctc_weight > 0

    def _count_right(self, seq_BUV: Tensor, tokens_eos_BU: Tensor) -> None:
        real_BU = tokens_eos_BU != BLANK_INDEX
        self._right += int(((seq_BUV.argmax(dim=-1) == tokens_eos_BU) & real_BU).sum())
        self._tokens += int(real_BU.sum())

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """As in the base, and a fresh searcher where one is used."""
        super().on_stage_start(stage, epoch)
        self._right = self._tokens = 0
        due = epoch is not None and epoch % self.hparams.valid_search_interval == 0
        searches = stage == sb.Stage.TEST or (stage == sb.Stage.VALID and due)
        self._searcher = self._make_searcher(stage) if searches else None

    def _make_searcher(self, stage: sb.Stage) -> Searcher:
        test, settings = stage == sb.Stage.TEST, self.hparams
        return make_searcher(
            self.model,
            settings.test_beam_size if test else settings.valid_beam_size,
            settings.ctc_weight_decode,
            self.language_model if test else None,
            settings.lm_weight,
            settings.temperature if test else 1.0,
            settings.lm_temperature,
            settings.scorer_beam_scale,
            settings.min_decode_ratio,
            settings.max_decode_ratio,
        )

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage; after validation closes the epoch."""
        accuracy = 100 * self._right / max(self._tokens, 1)
        if stage != sb.Stage.VALID:
            super().on_stage_end(stage, stage_loss, epoch)
            if stage == sb.Stage.TEST:
                self.test_stats["ACC"] = accuracy
            return
        assert epoch is not None
        stats = {"loss": stage_loss, "ACC": accuracy}
        if self.wer.tokens:
            stats |= self.scores()
        self.end_epoch(epoch, {"loss": self.train_loss}, stats)


def joint_loss(
    output: AttentionCTCOutput,
    tokens: tuple[Tensor, Tensor],
    tokens_eos_BU: Tensor,
    ctc_weight: float,
    label_smoothing: float,
) -> Tensor:
    """The loss of a batch; the mean of what its utterances have alone.

    Args:
        output: of the model.
        tokens: (B, U) padded tokens, and the share of real ones (B,).
        tokens_eos_BU: tokens and end mark, padded with 0, which no token is.
        ctc_weight: of the CTC loss; the decoder's has the rest.
        label_smoothing: part of a target that all tokens share alike.
    """
    tokens_BU, token_share_B = tokens
    ctc = sb.nnet.losses.ctc_loss(
        output.ctc_BTV,
        tokens_BU,
        output.lengths_B / output.ctc_BTV.shape[1],
        token_share_B,
        BLANK_INDEX,
        reduction="batchmean",
    )
    # Log-probabilities are scores like any: softmax leaves them as they are.
    seq = F.cross_entropy(
        output.seq_BUV.transpose(1, 2),
        tokens_eos_BU,
        ignore_index=BLANK_INDEX,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return ctc_weight * ctc + (1 - ctc_weight) * seq / len(tokens_BU)
