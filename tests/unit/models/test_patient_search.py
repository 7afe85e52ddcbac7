"""The patient beam search, on a decoder that says what it is told to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from speechbrain.nnet.linear import Linear
from torch import Tensor, nn

from summarymixing_modules.models.asr.attention_ctc import BeamSearcher
from summarymixing_modules.models.asr.patient_search import PatientBeamSearcher

BOS, EOS, LONG, SHORT = 1, 2, 3, 4
LENGTH = 6


def next_token(prefix: list[int]) -> dict[int, float]:
    """Probabilities: LONG six times is what is meant; what ends early is less likely."""
    if not prefix:
        return {LONG: 0.6, SHORT: 0.39}
    if prefix[0] == SHORT:
        return {EOS: 0.55, SHORT: 0.44}
    return {LONG: 0.97, EOS: 0.02} if len(prefix) < LENGTH else {EOS: 0.97, LONG: 0.02}


class Scripted:
    """Mixed into a searcher: the prefixes are its state."""

    def reset_mem(self, batch_size: int, device: str) -> Tensor:
        return torch.empty(batch_size, 0, dtype=torch.long)

    def permute_mem(self, memory: Tensor, index: Tensor) -> Tensor:
        return memory[index]

    def forward_step(
        self, inp_tokens: Tensor, memory: Tensor, enc_states: Tensor, enc_lens: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        memory = torch.cat([memory, inp_tokens[:, None]], 1)
        log_probs = torch.full((len(memory), 5), 1e-6)
        for row, tokens in enumerate(memory.tolist()):
            for token, probability in next_token(tokens[1:]).items():
                log_probs[row, token] = probability
        return log_probs.log(), memory, None


class Stock(Scripted, BeamSearcher):  # type: ignore[misc]
    pass


class Patient(Scripted, PatientBeamSearcher):  # type: ignore[misc]
    pass


def search(searcher: type[BeamSearcher], beam_size: int, ratio: float = 1.0) -> tuple[Any, Tensor]:
    made = searcher(
        modules=[nn.Identity(), Linear(5, input_size=1)],
        bos_index=BOS,
        eos_index=EOS,
        min_decode_ratio=0.0,
        max_decode_ratio=ratio,
        beam_size=beam_size,
        using_eos_threshold=False,
        length_normalization=True,
    )
    hypotheses, _, scores, _ = made(torch.zeros(2, 20, 1), torch.tensor([1.0, 0.5]))
    return hypotheses, scores


@pytest.mark.parametrize("beam_size", [2, 3, 4])
def test_the_long_answer_that_scores_better_is_waited_for(beam_size: int) -> None:
    hypotheses, scores = search(Patient, beam_size)
    assert hypotheses == [[LONG] * LENGTH] * 2
    expected = torch.tensor([0.6, *[0.97] * LENGTH]).log().sum() / (LENGTH + 1)
    torch.testing.assert_close(scores.flatten(), expected.expand(2))


def test_speechbrains_search_does_not_wait() -> None:
    """What the class is for; if this fails, SpeechBrain's search has become patient itself."""
    hypotheses, _ = search(Stock, 2)
    assert hypotheses == [[SHORT]] * 2


def test_at_the_limit_of_steps_something_is_returned() -> None:
    hypotheses, scores = search(Patient, 2, ratio=0.2)
    assert len(hypotheses) == 2 and torch.isfinite(scores).all()
    assert all(set(tokens) <= {LONG, SHORT} for tokens in hypotheses)
