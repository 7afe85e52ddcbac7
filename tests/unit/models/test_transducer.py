"""The transducer: its loss against the textbook recursion, greedy and beam search, streaming."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from speechbrain.decoders.transducer import TransducerBeamSearcher
from speechbrain.lobes.models.RNNLM import RNNLM
from speechbrain.nnet.embedding import Embedding
from speechbrain.nnet.RNN import LSTM
from torch import Tensor

from summarymixing_modules.data.text import tokenizers
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import ConvFrontEnd1d, TransducerModel, TransformerASR
from summarymixing_modules.models.asr import transducer_loss as losses
from summarymixing_modules.models.asr.recurrent_language_model import RecurrentLanguageModel
from summarymixing_modules.models.asr.transducer_loss import (
    BLANK_INDEX,
    plain_transducer_loss,
    transducer_loss,
)
from summarymixing_modules.models.asr.transducer_search import BoundedBeamSearcher
from summarymixing_modules.models.describe import build, describe
from summarymixing_modules.models.features.frontend import lengths_to_padding

V = 7
LENGTHS, TOKEN_LENGTHS = torch.tensor([6, 9, 1, 4]), torch.tensor([3, 5, 0, 6])


def naive_loss(logits_TUV: Tensor, tokens: list[int]) -> Tensor:
    """The forward recursion of arXiv 1211.3711, eq. (16), node by node."""
    log_probs = logits_TUV.double().log_softmax(-1)
    frames, count = len(log_probs), len(tokens)
    alpha: dict[tuple[int, int], Tensor] = {(0, 0): torch.zeros((), dtype=torch.float64)}
    for t in range(frames):
        for u in range(count + 1):
            paths = []
            if t > 0:
                paths.append(alpha[t - 1, u] + log_probs[t - 1, u, BLANK_INDEX])
            if u > 0:
                paths.append(alpha[t, u - 1] + log_probs[t, u - 1, tokens[u - 1]])
            if paths:
                alpha[t, u] = torch.stack(paths).logsumexp(0)
    return -(alpha[frames - 1, count] + log_probs[frames - 1, count, BLANK_INDEX])


def random_case(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits (4, 11, 9, V) and tokens (4, 8): longer than any utterance in the batch."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4, 11, 9, V, generator=generator, dtype=torch.float64)
    tokens_BU = torch.randint(1, V, (4, 8), generator=generator)
    return logits.to(dtype).requires_grad_(), tokens_BU


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", [transducer_loss, plain_transducer_loss])
def test_loss_and_gradient_equal_the_recursion(form: object, dtype: torch.dtype) -> None:
    logits, tokens_BU = random_case(dtype)
    got_B = form(logits, tokens_BU, LENGTHS, TOKEN_LENGTHS)
    (gradient,) = torch.autograd.grad((got_B * torch.arange(1.0, 5.0)).sum(), logits)
    want = []
    for b, (frames, count) in enumerate(zip(LENGTHS, TOKEN_LENGTHS, strict=True)):
        want.append(naive_loss(logits[b, :frames, : count + 1], tokens_BU[b, :count].tolist()))
    want_B = torch.stack(want)
    (want_gradient,) = torch.autograd.grad((want_B * torch.arange(1.0, 5.0)).sum(), logits)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(got_B.double(), want_B, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gradient, want_gradient, atol=tolerance, rtol=tolerance)
    for b, (frames, count) in enumerate(zip(LENGTHS, TOKEN_LENGTHS, strict=True)):
        assert not gradient[b, frames:].any() and not gradient[b, :, count + 1 :].any()


def test_loss_is_a_probability() -> None:
    """Over all token sequences that one frame can say in up to two tokens, with the rest."""
    logits = random_case(torch.float64)[0].detach()[0, :1, :3]
    log_probs = logits[0].log_softmax(-1)
    said = [[], *([a] for a in range(1, V)), *([a, b] for a in range(1, V) for b in range(1, V))]
    total = 0.0
    for tokens in said:
        frame = logits[None, :, : len(tokens) + 1]
        tokens_BU = torch.tensor([tokens], dtype=torch.long).reshape(1, -1)
        count = torch.tensor([len(tokens)])
        loss_B = plain_transducer_loss(frame, tokens_BU, torch.tensor([1]), count)
        total += float((-loss_B).exp())
    says_more = [log_probs[u, BLANK_INDEX].exp() for u in range(3)]
    unfinished = math.prod(1 - float(p) for p in says_more)
    assert total == pytest.approx(1 - unfinished)


def test_loss_in_low_precision_is_computed_in_float32() -> None:
    logits, tokens_BU = random_case(torch.float32)
    low = logits.detach().bfloat16().requires_grad_()
    got_B = transducer_loss(low, tokens_BU, LENGTHS, TOKEN_LENGTHS)
    want_B = transducer_loss(low.detach().float(), tokens_BU, LENGTHS, TOKEN_LENGTHS)
    assert got_B.dtype == torch.float32 and torch.equal(got_B, want_B)
    got_B.sum().backward()
    assert low.grad is not None and low.grad.dtype == torch.bfloat16


def test_without_torchaudio_the_plain_form_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, tokens_BU = random_case(torch.float32)
    want_B = transducer_loss(logits, tokens_BU, LENGTHS, TOKEN_LENGTHS)
    monkeypatch.setattr(losses, "has_fused_loss", lambda: False)
    monkeypatch.delattr(losses, "rnnt_loss")
    got_B = transducer_loss(logits, tokens_BU, LENGTHS, TOKEN_LENGTHS)
    torch.testing.assert_close(got_B, want_B, atol=1e-4, rtol=1e-4)


def make_model(max_symbols: int = 5, blank: float = 1.5, **options: Any) -> TransducerModel:
    """A model whose blanks and tokens alternate."""
    torch.manual_seed(0)
    transformer = TransformerASR(
        V,
        12,
        d_model=16,
        nhead=2,
        num_encoder_layers=1,
        num_decoder_layers=0,
        d_ffn=32,
        kernel_size=5,
    )
    model = TransducerModel(
        ConvFrontEnd1d(8, (12, 12)), transformer, V, 10, 14, max_symbols=max_symbols, **options
    ).eval()
    with torch.no_grad():
        model.joint.output.weight *= 8
        model.joint.output.bias[BLANK_INDEX] += blank
    return model


def test_blank_is_the_tokenizers() -> None:
    assert tokenizers.BLANK_INDEX == BLANK_INDEX


@pytest.mark.parametrize("max_symbols", [1, 2, 5])
@torch.no_grad()
def test_greedy_equals_speechbrains_one_utterance_at_a_time(max_symbols: int) -> None:
    model = make_model(max_symbols)
    encoded_BTD, lengths_B = 2 * torch.randn(4, 37, 16), torch.tensor([37, 20, 1, 33])
    got = model.greedy(encoded_BTD, lengths_B)
    searcher = TransducerBeamSearcher(
        [model.predictor.embedding, model.predictor.lstm, model.joint.predictor],
        lambda encoded, predicted: torch.nn.functional.gelu(encoded + predicted),
        [model.joint.output],
        BLANK_INDEX,
        beam_size=1,
    )
    for row, encoded_TD, length in zip(got, encoded_BTD, lengths_B.tolist(), strict=True):
        projected = model.joint.encoder(encoded_TD[None, :length])
        limit = max_symbols - 1  # SpeechBrain takes one more than it says
        want = searcher.transducer_greedy_decode(projected, max_symbols_per_step=limit)[0][0]
        assert row == want
    assert 5 < len(got[0])


@torch.no_grad()
def test_greedy_in_pieces_equals_greedy() -> None:
    model = make_model()
    encoded_BTD, lengths_B = 2 * torch.randn(3, 37, 16), torch.tensor([37, 20, 9])
    padding_BT = lengths_to_padding(lengths_B, 37)
    want = model.greedy(encoded_BTD, lengths_B)
    for size in (1, 5, 16):
        state = model.initial_state(3)
        got: list[list[int]] = [[], [], []]
        for start in range(0, 37, size):
            part = slice(start, start + size)
            new, state = model.greedy_step(encoded_BTD[:, part], padding_BT[:, part], state)
            got = [row + more for row, more in zip(got, new, strict=True)]
        assert got == want


def test_a_model_that_never_says_blank_is_stopped() -> None:
    model = make_model(max_symbols=3, blank=-1e4)
    rows = model.greedy(torch.randn(2, 8, 16), torch.tensor([8, 5]))
    assert [len(row) for row in rows] == [24, 15]
    searcher = BoundedBeamSearcher(model, 2, max_expansions=6)
    rows = searcher.search(torch.randn(2, 4, 16), torch.tensor([4, 3]))
    assert all(0 < len(row) <= 4 * 8 for row in rows)


@torch.no_grad()
def test_bounded_beam_equals_speechbrains_below_the_limit() -> None:
    """With a language model, too, which changes what is found."""
    model = make_model(blank=6.0)
    encoded_BTD, lengths_B = 2 * torch.randn(2, 15, 16), torch.tensor([15, 9])
    lm = RecurrentLanguageModel(V, 4, 2, 6, 5).eval()
    lm.out.w.weight.mul_(5)
    stock_lm = RNNLM(V, 4, dropout=0.0, rnn_neurons=6, return_hidden=True, dnn_neurons=5).eval()
    stock_lm.load_state_dict(lm.state_dict())
    parts = (
        [model.predictor.embedding, model.predictor.lstm, model.joint.predictor],
        lambda encoded, predicted: torch.nn.functional.gelu(encoded + predicted),
        [model.joint.output],
    )
    found = []
    for ours, theirs, weight in ((None, None, 0.0), (lm, stock_lm, 0.9)):
        stock = TransducerBeamSearcher(*parts, BLANK_INDEX, 3, 1, theirs, weight)
        want = [
            stock(model.joint.encoder(row[None, :n]))[0][0]
            for row, n in zip(encoded_BTD, lengths_B.tolist(), strict=True)
        ]
        searcher = BoundedBeamSearcher(model, 3, 10_000, ours, weight)
        assert searcher.search(encoded_BTD, lengths_B) == want and want[0]
        found.append(want)
    assert found[0] != found[1]


def test_an_utterance_scores_the_same_beside_longer_ones() -> None:
    model = make_model()
    features_BTF, tokens_BU = torch.randn(2, 61, 8), torch.randint(1, V, (2, 5))
    lengths_B = torch.tensor([61, 30])
    both = model(features_BTF, lengths_B, tokens_BU)
    alone = model(features_BTF[1:, :30], lengths_B[1:], tokens_BU[1:, :3])
    frames = int(alone.lengths_B)
    assert both.logits_BTUV.shape == (2, 16, 6, V) and frames == 8
    torch.testing.assert_close(
        both.logits_BTUV[1:, :frames, :4], alone.logits_BTUV, atol=1e-4, rtol=1e-4
    )
    loss_B = transducer_loss(both.logits_BTUV, tokens_BU, both.lengths_B, torch.tensor([5, 3]))
    (loss_B.mean() + both.ctc_log_probs_BTV.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_one_hot_predictor_is_speechbrains() -> None:
    """Layers, dropouts and CTC head as in its recipe, in training, too."""
    options = {"dropout": 0.1, "embedding_dropout": 0.2, "one_hot": True, "ctc_on_joint": True}
    model, tokens_BU = make_model(**options).train(), torch.randint(0, V, (3, 5))
    embedding = Embedding(V, consider_as_one_hot=True, blank_id=BLANK_INDEX)
    lstm = LSTM(10, input_size=V - 1)
    lstm.rnn.load_state_dict(model.predictor.lstm.state_dict())
    torch.manual_seed(3)
    got_BUP, _ = model.predictor(tokens_BU)
    torch.manual_seed(3)
    read = torch.nn.functional.dropout(embedding(tokens_BU), 0.2)
    want_BUP = torch.nn.functional.dropout(lstm(read)[0], 0.1)
    torch.testing.assert_close(got_BUP, want_BUP)
    model.eval()
    output = model(torch.randn(1, 40, 8), torch.tensor([40]), tokens_BU[:1])
    projected_BTJ = model.joint.encoder(output.encoded_BTD)
    want_BTV = model.ctc_output(projected_BTJ).log_softmax(-1)
    torch.testing.assert_close(output.ctc_log_probs_BTV, want_BTV)
    rows = BoundedBeamSearcher(model, 2).search(output.encoded_BTD, output.lengths_B)
    assert len(rows) == 1


def test_describes_itself_and_refuses_bad_arguments() -> None:
    model = make_model()
    again = build(describe(model))
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
    with pytest.raises(InputError, match="--max_symbols"):
        make_model(max_symbols=0)
    with pytest.raises(InputError, match="--max_expansions"):
        BoundedBeamSearcher(model, 2, 0)
    with pytest.raises(InputError, match="--test_beam_size"):
        BoundedBeamSearcher(model, 0)
