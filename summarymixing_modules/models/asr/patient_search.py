"""A beam search for outputs of very different length, such as meanings with and without entities.

SpeechBrain's search ends when as many hypotheses as the beam is wide have ended. Those are the
short ones: an empty list of entities ends, with two or three misspellings of it, long before the
answer with the entities does, however much better that scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from summarymixing_modules.models.asr.attention_ctc import BeamSearcher

#: A hypothesis that has ended: tokens, their log-probabilities, score.
Ended = tuple[Tensor, Tensor, Tensor]


class PatientBeamSearcher(BeamSearcher):
    """Goes on while a hypothesis that has not ended scores better than the best that has.

    Scores are log-probabilities by length. Of those that have ended, the best are kept.
    Arguments and results are those of ``BeamSearcher``.
    """

    _alive_B: Tensor

    def _update_hyps_and_scores_if_eos_token(
        self,
        inp_tokens: Tensor,
        alived_hyps: Any,
        eos_hyps_and_log_probs_scores: list[list[Ended]],
        scores: Tensor,
    ) -> Tensor:
        """Keeps the best of the hypotheses that end, not the first."""
        ends_N = inp_tokens == self.eos_index
        for index in ends_N.nonzero()[:, 0].tolist():
            ended = eos_hyps_and_log_probs_scores[index // self.beam_size]
            tokens, log_probs = alived_hyps.alived_seq[index], alived_hyps.alived_log_probs[index]
            ended.append((tokens, log_probs, scores[index].clone()))
            ended.sort(key=_score, reverse=True)
            del ended[self.beam_size :]
        alive_N = scores.masked_fill(ends_N, -torch.inf)
        self._alive_B = alive_N.view(-1, self.beam_size).amax(dim=1)
        return ends_N

    def _check_full_beams(self, hyps: list[list[Ended]]) -> bool:
        """Whether nothing better is to be expected for any utterance."""
        if not super()._check_full_beams(hyps):
            return False
        alive = self._alive_B.tolist()
        return all(_score(ended[0]) >= best for ended, best in zip(hyps, alive, strict=True))

    def _fill_alived_hyps_with_eos_token(
        self,
        alived_hyps: Any,
        eos_hyps_and_log_probs_scores: list[list[Ended]],
        scores: Tensor,
    ) -> list[list[Ended]]:
        """At the limit of steps, takes what has not ended only where too little has."""
        super()._update_hyps_and_scores_if_eos_token(
            torch.full_like(scores, self.eos_index, dtype=torch.long),
            alived_hyps,
            eos_hyps_and_log_probs_scores,
            scores,
        )
        return eos_hyps_and_log_probs_scores


def _score(ended: Ended) -> float:
    return float(ended[2])
