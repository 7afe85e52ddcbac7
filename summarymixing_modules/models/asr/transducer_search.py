"""Beam search over a transducer that cannot run away."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.decoders.transducer import TransducerBeamSearcher
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.recurrent_language_model import (
    Hidden,
    RecurrentLanguageModel,
)
from summarymixing_modules.models.asr.transducer import TransducerModel
from summarymixing_modules.models.asr.transducer_loss import BLANK_INDEX


class BoundedBeamSearcher(TransducerBeamSearcher):
    """SpeechBrain's beam search with a limit on the hypotheses expanded at one frame.

    The score of a hypothesis is log P(tokens, blanks | frames) + l · log P(tokens) of a language
    model (shallow fusion).

    A frame ends when enough hypotheses have said blank, which a badly trained model may never do:
    SpeechBrain's search then takes minutes for an utterance. Here every hypothesis that is expanded
    after ``max_expansions`` others says blank, so a frame takes at most
    ``max_expansions + beam_size`` expansions. Below the limit the result is SpeechBrain's.

    Args:
        model: the transducer.
        beam_size: hypotheses kept.
        max_expansions: hypotheses of one frame that may go on freely.
        language_model: None for none.
        lm_weight: l.
        **options: ``state_beam`` and ``expand_beam`` of SpeechBrain's searcher.

    Raises:
        InputError: see ``check_search``.
    """

    def __init__(
        self,
        model: TransducerModel,
        beam_size: int,
        max_expansions: int = 40,
        language_model: RecurrentLanguageModel | None = None,
        lm_weight: float = 0.5,
        **options: Any,
    ) -> None:
        check_search(beam_size, max_expansions)
        predictor, joint = model.predictor, model.joint
        super().__init__(
            [predictor.embedding, predictor.lstm, joint.predictor],
            lambda encoded, predicted: F.gelu(encoded + predicted),
            [joint.output],
            BLANK_INDEX,
            beam_size,
            nbest=1,
            lm_module=language_model,
            lm_weight=0.0 if language_model is None else lm_weight,
            **options,
        )
        self.project = joint.encoder
        self.max_expansions = max_expansions
        self._frame, self._expansions = 0, 0

    @torch.no_grad()
    def search(self, encoded_BTD: Tensor, lengths_B: Tensor) -> list[list[int]]:
        """The best tokens of each utterance.

        Args:
            encoded_BTD: from ``TransducerModel.encode``.
            lengths_B: real frames of each utterance.
        """
        encoded_BTJ = self.project(encoded_BTD)
        found = []
        for row_TJ, length in zip(encoded_BTJ, lengths_B.tolist(), strict=True):
            self._frame = 0
            found.append(self(row_TJ[None, : int(length)])[0][0])
        return found

    def _joint_forward_step(self, h_i: Tensor, out_PN: Tensor) -> Tensor:
        """Log-probabilities after one more expansion; only blank once there were too many."""
        frame = h_i.data_ptr()  # a view of the frame, so one address for each
        self._expansions = self._expansions + 1 if frame == self._frame else 1
        self._frame = frame
        log_probs = super()._joint_forward_step(h_i, out_PN)
        if self._expansions <= self.max_expansions:
            return log_probs
        closed = torch.full_like(log_probs, -torch.inf)
        closed[..., BLANK_INDEX] = log_probs[..., BLANK_INDEX]
        return closed

    def _lm_forward_step(self, inp_tokens: Tensor, memory: Hidden | None) -> tuple[Tensor, Hidden]:
        """Log-probabilities (1, 1, V) of the next token, and the language model's state."""
        assert self.lm is not None
        scores, hidden = self.lm.step(inp_tokens, memory)
        return self.softmax(scores.float()), hidden


def check_search(beam_size: int, max_expansions: int) -> None:
    """Refuses settings that mean nothing.

    Raises:
        InputError: names the flag and what it takes.
    """
    if beam_size < 1:
        raise InputError(f"--test_beam_size is {beam_size}: give 1 (greedy) or more.")
    if max_expansions < 1:
        raise InputError(f"--max_expansions is {max_expansions}: give at least 1.")
