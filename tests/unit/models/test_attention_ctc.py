"""Attention and CTC on one encoder: what the model says, and its searches against SpeechBrain's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder
from speechbrain.decoders.seq2seq import S2STransformerBeamSearcher, S2STransformerGreedySearcher
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from summarymixing_modules.errors import InputError
from summarymixing_modules.models import AttentionCTCModel, ConvFrontEnd1d, TransformerASR
from summarymixing_modules.models.asr.attention_ctc import BeamSearcher, GreedySearcher

VOCABULARY, FRAMES = 11, 50
MARKS = {"bos_index": 1, "eos_index": 2, "min_decode_ratio": 0.0, "max_decode_ratio": 1.0}


def make(**options: Any) -> AttentionCTCModel:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 32, "kernel_size": 7}
    frontend = ConvFrontEnd1d(8, (12, 12))
    transformer = TransformerASR(
        VOCABULARY, frontend.output_size, **{"num_decoder_layers": 2, **sizes, **options}
    )
    return AttentionCTCModel(frontend, transformer, VOCABULARY).eval()


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    tokens_BU = torch.randint(3, VOCABULARY, (3, 6))
    tokens_BU[:, 0] = 1
    tokens_BU[1, 4:] = 0
    return torch.randn(3, FRAMES, 8), torch.tensor([FRAMES, 23, 41]), tokens_BU


@pytest.mark.parametrize("decoder", ["regularMHA", "SummaryMixing"])
@torch.no_grad()
def test_an_utterance_scores_the_same_alone(decoder: str) -> None:
    model = make(decoder_attention=decoder)
    x_BTF, lengths_B, tokens_BU = batch()
    beside = model(x_BTF, lengths_B, tokens_BU)
    alone = model(x_BTF[1:2, :23], lengths_B[1:2], tokens_BU[1:2, :4])
    assert beside.lengths_B.tolist() == [13, 6, 11] and alone.ctc_BTV.shape == (1, 6, VOCABULARY)
    near = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(beside.ctc_BTV[1:2, :6], alone.ctc_BTV, **near)
    torch.testing.assert_close(beside.seq_BUV[1:2, :4], alone.seq_BUV, **near)
    for log_probs in (alone.ctc_BTV, alone.seq_BUV):
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))


@torch.no_grad()
def test_the_decoder_sees_no_later_token() -> None:
    model = make()
    x_BTF, lengths_B, tokens_BU = batch()
    before = model(x_BTF, lengths_B, tokens_BU).seq_BUV
    tokens_BU[0, 4] = 3 if tokens_BU[0, 4] != 3 else 4
    after = model(x_BTF, lengths_B, tokens_BU).seq_BUV
    torch.testing.assert_close(after[0, :4], before[0, :4])
    assert not torch.allclose(after[0, 4:], before[0, 4:])


def test_every_parameter_learns() -> None:
    model = make().train()
    output = model(*batch())
    (output.ctc_BTV[..., 3].sum() + output.seq_BUV[..., 3].sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_chunks_reach_the_encoder() -> None:
    model = make()
    x_BTF, lengths_B, tokens_BU = batch()
    chunked = model(x_BTF, lengths_B, tokens_BU, DynChunkTrainConfig(4, 1))
    again = model.encode(x_BTF, lengths_B, DynChunkTrainConfig(4, 1))[0]
    torch.testing.assert_close(chunked.encoded_BTD, again)
    full = model(x_BTF, lengths_B, tokens_BU)
    assert not torch.allclose(chunked.encoded_BTD, full.encoded_BTD)


def test_a_decoder_is_needed() -> None:
    with pytest.raises(InputError, match="num_decoder_layers is 0"):
        make(num_decoder_layers=0)


def encoded(model: AttentionCTCModel) -> tuple[torch.Tensor, torch.Tensor]:
    x_BTF, lengths_B, _ = batch()
    encoded_BTD, lengths_B = model.encode(x_BTF, lengths_B)
    return encoded_BTD, lengths_B / encoded_BTD.shape[1]


@pytest.mark.parametrize("decoder", ["regularMHA", "SummaryMixing", "RoPEMHA"])
@pytest.mark.parametrize("beam_size", [1, 4, 2 * VOCABULARY])
@torch.no_grad()
def test_beam_search_finds_what_speechbrains_finds(decoder: str, beam_size: int) -> None:
    """With a state, in place of the whole prefix at every step."""
    model = make(decoder_attention=decoder)
    searched = encoded(model)

    def search(searcher: type[S2STransformerBeamSearcher]) -> Any:
        scorer = ScorerBuilder(
            weights={"ctc": 0.4},
            partial_scorers=[CTCScorer(model.ctc_output, blank_index=0, eos_index=2)],
            scorer_beam_scale=1.5,
        )
        modules = [model.transformer, model.seq_output]
        options = {"beam_size": beam_size, "using_eos_threshold": False, "temperature": 1.15}
        return searcher(modules=modules, scorer=scorer, **MARKS, **options)(*searched)

    hypotheses, lengths, scores, _ = search(BeamSearcher)
    wanted, wanted_lengths, wanted_scores, _ = search(S2STransformerBeamSearcher)
    assert hypotheses == wanted and len(hypotheses) == 3
    torch.testing.assert_close(lengths, wanted_lengths)
    torch.testing.assert_close(scores, wanted_scores, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_greedy_search_finds_what_speechbrains_finds() -> None:
    model = make()
    model.seq_output.w.weight.mul_(8)  # so that hypotheses differ, and some end early
    model.seq_output.w.bias[2] += 12
    modules, searched = [model.transformer, model.seq_output], encoded(model)
    found = GreedySearcher(modules=modules, **MARKS)(*searched)[0]
    assert found == S2STransformerGreedySearcher(modules=modules, **MARKS)(*searched)[0]
    assert len({len(tokens) for tokens in found}) > 1 and max(map(len, found)) < 13


@pytest.mark.parametrize("searcher", [GreedySearcher, BeamSearcher])
@torch.no_grad()
def test_an_utterance_of_one_frame_is_decoded(searcher: Any) -> None:
    """A ratio below 1 would leave no step, of which SpeechBrain's searches die."""
    model = make()
    options = {**MARKS, "max_decode_ratio": 0.5}
    if searcher is BeamSearcher:
        options["beam_size"] = 3
    search = searcher(modules=[model.transformer, model.seq_output], **options)
    hypotheses = search(torch.randn(2, 1, 16), torch.ones(2))[0]
    assert len(hypotheses) == 2 and all(len(tokens) <= 1 for tokens in hypotheses)
