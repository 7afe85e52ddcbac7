"""Training and scoring of transducers (arXiv 1211.3711), streaming ones (arXiv 2409.07165) too.

Shape suffixes: B batch, T frames, D encoder features, L samples, U tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import speechbrain as sb
from torch import Tensor, nn

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Mixer
from summarymixing_modules.models.asr.transducer import TransducerOutput
from summarymixing_modules.models.asr.transducer_loss import transducer_loss
from summarymixing_modules.models.asr.transducer_search import BoundedBeamSearcher
from summarymixing_modules.training.asr import RecognitionBrain


class TransducerBrain(RecognitionBrain):
    """Brain of transducer recipes; ``modules.model`` is a ``TransducerModel``.

    The loss of a step is (1 − w) · transducer + w · CTC with w = ``ctc_weight`` in the first
    ``ctc_epochs`` epochs and 0 afterwards; in evaluation it is the transducer's. The transducer's
    is the mean over utterances, the CTC's as ``ctc_reduction`` says. Decoding is greedy while
    validating, in the test as ``test_beam_size`` says.
    """

    known_keys: ClassVar[frozenset[str]] = RecognitionBrain.known_keys | {
        "ctc_weight",
        "ctc_epochs",
        "ctc_reduction",  # mean (of the loss per token, as in SpeechBrain) or batchmean
        "test_beam_size",  # 1 decodes greedily
        "max_expansions",  # of the beam search, at one frame
        "test_beam_options",  # more arguments of SpeechBrain's TransducerBeamSearcher
    }

    _searcher: BoundedBeamSearcher | None = None

    def compute_forward(self, batch: Any, stage: sb.Stage) -> TransducerOutput:
        """Scores of every frame after every number of tokens."""
        batch = batch.to(self.device)
        samples_BL, share_B = batch.sig
        features_BTF, lengths_B = self.features(samples_BL, share_B, stage)
        return self.modules.model(
            features_BTF, lengths_B, batch.tokens[0], self.chunk_config(stage)
        )

    def compute_objectives(
        self, predictions: TransducerOutput, batch: Any, stage: sb.Stage
    ) -> Tensor:
        """The loss; in evaluation also decodes and scores."""
        tokens_BU, token_share_B = batch.tokens
        token_lengths_B = (token_share_B * tokens_BU.shape[1]).round().long()
        lengths_B = predictions.lengths_B
        loss = transducer_loss(
            predictions.logits_BTUV, tokens_BU, lengths_B, token_lengths_B
        ).mean()
        if stage != sb.Stage.TRAIN:
            self.score(batch, self._decode(predictions.encoded_BTD, lengths_B, stage))
            return loss
        # Also when its weight is 0: DDP waits for gradients of every parameter.
        log_probs_BTV = predictions.ctc_log_probs_BTV
        ctc = sb.nnet.losses.ctc_loss(
            log_probs_BTV,
            tokens_BU,
            lengths_B / log_probs_BTV.shape[1],
            token_share_B,
            BLANK_INDEX,
            reduction=self.option("ctc_reduction", "mean"),
        )
        weight = self._ctc_weight()
        return (1 - weight) * loss + weight * ctc

    def uses_ctc(self) -> bool:
        """With ``ctc_weight``, in the first epochs."""
        return bool(self.option("ctc_weight", 0.0) and self.option("ctc_epochs", 0))

    def _ctc_weight(self) -> float:
        trained = self.epoch > int(self.option("ctc_epochs", 0))
        return 0.0 if trained else float(self.option("ctc_weight", 0.0))

    def _decode(self, encoded_BTD: Tensor, lengths_B: Tensor, stage: sb.Stage) -> list[str]:
        """Best transcripts: greedy while validating, in the test with the beam asked for."""
        if stage == sb.Stage.TEST and self.option("test_beam_size", 1) > 1:
            rows = self._beam().search(encoded_BTD, lengths_B)
        else:
            rows = self.model.greedy(encoded_BTD, lengths_B)
        return [self.tokenizer.decode(row).strip() for row in rows]

    def _beam(self) -> BoundedBeamSearcher:
        if self._searcher is None:
            self._searcher = BoundedBeamSearcher(
                self.model,
                int(self.hparams.test_beam_size),
                int(self.option("max_expansions", 40)),
                **(self.option("test_beam_options") or {}),
            )
        return self._searcher


def check_chunked(encoder: nn.Module, flag: str) -> None:
    """Refuses encoders that cannot be cut into chunks.

    Args:
        encoder: of a ``TransformerASR``.
        flag: what asks for chunks, for the message.

    Raises:
        InputError: names the encoder or the mixer, the flag, and the mixers that can.
    """
    if not isinstance(encoder, MixerEncoder):
        raise InputError(
            f"{flag} cuts utterances into chunks, which a {type(encoder).__name__} cannot: use "
            "--encoder_module=conformer, branchformer or transformer."
        )
    for module in encoder.modules():
        if isinstance(module, Mixer):
            module.require("chunked", flag)
