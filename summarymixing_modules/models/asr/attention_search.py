"""The search of a recogniser with a decoder and a CTC head, as its settings ask for it."""

from __future__ import annotations

from typing import Any

from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder, TransformerLMScorer
from torch import nn

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, BOS_INDEX, EOS_INDEX
from summarymixing_modules.models.asr.attention_ctc import (
    AttentionCTCModel,
    BeamSearcher,
    GreedySearcher,
)
from summarymixing_modules.models.asr.patient_search import PatientBeamSearcher


def make_searcher(
    model: AttentionCTCModel,
    beam_size: int,
    ctc_weight: float = 0.4,
    language_model: nn.Module | None = None,
    lm_weight: float = 0.6,
    temperature: float = 1.0,
    lm_temperature: float = 1.0,
    scorer_beam_scale: float | None = 1.5,
    min_decode_ratio: float = 0.0,
    max_decode_ratio: float = 1.0,
    patient: bool = False,
) -> GreedySearcher | BeamSearcher:
    """A search for the tokens of encoded utterances: ``searcher(encoded_BTD, share_B)[0]``.

    The score of a hypothesis is (1 − c) · decoder + c · CTC + l · language model, by its length.

    Args:
        model: in evaluation mode.
        beam_size: hypotheses; 1 follows the decoder alone, greedily.
        ctc_weight: c.
        language_model: tokens (B, U) → scores (B, U, V); None for none.
        lm_weight: l.
        temperature: of the decoder's distribution; above 1 is flatter.
        lm_temperature: of the language model's.
        scorer_beam_scale: CTC scores that many beams of tokens for every hypothesis; None = every
            token, as in arXiv 2307.07421, for V / beam times the memory.
        min_decode_ratio: tokens per encoder frame at least.
        max_decode_ratio: tokens per encoder frame at most.
        patient: the beam waits for long hypotheses, see ``PatientBeamSearcher``.
    """
    common: dict[str, Any] = {
        "modules": [model.transformer, model.seq_output],
        "bos_index": BOS_INDEX,
        "eos_index": EOS_INDEX,
        "min_decode_ratio": min_decode_ratio,
        "max_decode_ratio": max_decode_ratio,
    }
    if beam_size == 1:
        return GreedySearcher(**common)
    weights: dict[str, float] = {}
    full: list[Any] = []
    partial: list[Any] = []
    if language_model is not None:
        weights["transformerlm"] = lm_weight
        full.append(TransformerLMScorer(language_model, lm_temperature))
    if ctc_weight > 0:
        weights["ctc"] = ctc_weight
        # Alone, it has to choose the candidates itself; beside others, it may score the best of them.
        every_token = ctc_weight == 1 or scorer_beam_scale is None
        (full if every_token else partial).append(
            CTCScorer(model.ctc_output, BLANK_INDEX, EOS_INDEX)
        )
    scorer = ScorerBuilder(weights, full, partial, scorer_beam_scale or 1.0) if weights else None
    return (PatientBeamSearcher if patient else BeamSearcher)(
        **common,
        beam_size=beam_size,
        scorer=scorer,
        temperature=temperature,
        using_eos_threshold=False,
        length_normalization=True,
    )
