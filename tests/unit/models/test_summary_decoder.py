"""The decoder with every causal mixer: causality, steps, beams, cost, sizes of the papers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from speechbrain.decoders.seq2seq import (
    S2STransformerBeamSearcher,
    S2STransformerGreedySearcher,
)
from speechbrain.lobes.models.transformer.Transformer import TransformerDecoder, get_lookahead_mask
from speechbrain.nnet.linear import Linear
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import (
    Capabilities,
    MixerSize,
    SummaryMixing,
    UnsupportedByMixer,
    build_mixer,
    mixer_forms,
)
from summarymixing_modules.models import ConvFrontEnd2d, MixerDecoder, TransformerASR
from summarymixing_modules.models.asr.summary_decoder import row_picker
from tests.tensors import padding_of

D, V, BOS, EOS = 32, 12, 1, 2


def capabilities(name: str, options: dict) -> Capabilities:
    """What one form of a mixer can do."""
    return build_mixer(name, MixerSize(D, 4, 64), **options).capabilities


ALL_FORMS = [
    (form.capabilities, pytest.param(form.attention_type, dict(form.options), id=form.name))
    for form in mixer_forms()
]
FORMS = [form for can, form in ALL_FORMS if can.causal and can.streaming]
OTHERS = [form for can, form in ALL_FORMS if not can.causal]


def make(name: str, options: dict | None = None, normalize_before: bool = True) -> MixerDecoder:
    torch.manual_seed(0)
    return MixerDecoder(
        2, 4, 64, D, 0.1, nn.GELU, normalize_before, attention_type=name, mixer_options=options
    ).eval()


def first_layer(decoder: MixerDecoder) -> Any:
    return decoder.layers[0]


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_a_token_sees_itself_and_the_past(name: str, options: dict) -> None:
    decoder = make(name, options)
    tgt = torch.randn(1, 7, D, requires_grad=True)
    output, _, _ = decoder(tgt, torch.randn(1, 5, D))
    for t in range(7):
        (grad,) = torch.autograd.grad(output[0, t].pow(2).sum(), tgt, retain_graph=True)
        seen = grad[0].abs().amax(-1)
        assert seen[t + 1 :].eq(0).all() and seen[t] > 0
        assert t == 0 or seen[t - 1] > 0 or options.get("summary_proj") is False


@pytest.mark.parametrize(("name", "options"), FORMS)
@torch.no_grad()
def test_padding_of_either_side_is_not_seen(name: str, options: dict) -> None:
    decoder = make(name, options)
    tgt, memory = torch.randn(2, 9, D), torch.randn(2, 11, D)
    beside, _, weights = decoder(
        tgt,
        memory,
        tgt_key_padding_mask=padding_of(5, 9),
        memory_key_padding_mask=padding_of(6, 11),
    )
    alone, _, _ = decoder(tgt[:1, :5], memory[:1, :6])
    torch.testing.assert_close(beside[:1, :5], alone, atol=1e-5, rtol=1e-5)
    assert weights[-1].shape == (2, 9, 11) and weights[-1][0, :, 6:].abs().max() == 0


@pytest.mark.parametrize("normalize_before", [True, False])
@pytest.mark.parametrize(("name", "options"), FORMS)
@torch.no_grad()
def test_steps_equal_the_whole_prefix(name: str, options: dict, normalize_before: bool) -> None:
    decoder = make(name, options, normalize_before)
    tgt, memory, padding = torch.randn(3, 12, D), torch.randn(3, 11, D), padding_of(11, 4, 8)
    want, _, _ = decoder(tgt, memory, memory_key_padding_mask=padding)
    state, outputs = decoder.initial_state(memory, padding), []
    for t in range(12):
        y_BD, state = decoder.step(tgt[:, t], state)
        outputs.append(y_BD)
    assert state.position == 12
    torch.testing.assert_close(torch.stack(outputs, 1), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [3, 8])
@pytest.mark.parametrize(("name", "options"), FORMS)
@torch.no_grad()
def test_hypotheses_change_places(name: str, options: dict, batch: int) -> None:
    """Rows go where the index says, with what they remember; a batch may equal any other size."""
    decoder = make(name, options)
    tgt, memory = torch.randn(batch, 6, D), torch.randn(batch, 7, D)
    lengths = [7] + [3] * (batch - 1)
    state = decoder.initial_state(memory, padding_of(*lengths))
    for t in range(5):
        _, state = decoder.step(tgt[:, t], state)
    index = torch.tensor([2, 0, 0, 1, 2])
    got, _ = decoder.step(tgt[index, 5], decoder.reorder(state, index))
    want, _ = decoder.step(tgt[:, 5], state)
    torch.testing.assert_close(got, want[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("state", [{"sums": torch.zeros(2)}, (torch.zeros(2),) * 3])
def test_states_that_cannot_be_reordered(state: object) -> None:
    """Rather an error than hypotheses that keep the memory of others."""

    class Odd(SummaryMixing):
        def _initial_state(self, *args: Any) -> Any:
            return ()

    with pytest.raises(TypeError, match="cannot pick rows out of"):
        row_picker(Odd(D), torch.tensor([1, 0]))(state)


@torch.no_grad()
def test_beams_of_one_utterance_share_its_memory() -> None:
    decoder = make("SummaryMixing")
    tgt, memory = torch.randn(3, 6, D), torch.randn(1, 7, D).expand(3, -1, -1)
    state = decoder.initial_state(memory, padding_of(7, 7, 7))
    for t in range(5):
        _, state = decoder.step(tgt[:, t], state)
    index = torch.tensor([2, 0, 1])
    moved = decoder.reorder(state, index, same_memory=True)
    assert moved.layers[0].key_BHSE is state.layers[0].key_BHSE
    assert moved.visible_B11S is state.visible_B11S
    got, _ = decoder.step(tgt[index, 5], moved)
    want, _ = decoder.step(tgt[index, 5], decoder.reorder(state, index))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("name", "options"), FORMS)
@torch.no_grad()
def test_cost_of_a_step_of_a_linear_mixer_stays(name: str, options: dict) -> None:
    decoder = make(name, options)
    state, costs = decoder.initial_state(torch.randn(2, 7, D)), []
    for t in range(12):
        with FlopCounterMode(display=False) if t in (0, 11) else nullcontext() as counter:
            _, state = decoder.step(torch.randn(2, D), state)
        if counter is not None:
            costs.append((counter.get_total_flops(), numbers_in([s.mixer for s in state.layers])))
    first, last = costs
    assert first[0] > 0
    assert first == last if capabilities(name, options).linear_time else first < last


def numbers_in(state: Any) -> int:
    """How many numbers the tensors of a state hold."""
    if isinstance(state, Tensor):
        return state.numel()
    return sum(numbers_in(part) for part in state) if isinstance(state, tuple | list) else 0


@torch.no_grad()
def test_equals_speechbrain_with_its_attention() -> None:
    decoder = make("regularMHA")
    stock = TransformerDecoder(2, 4, 64, D, activation=nn.GELU, normalize_before=True).eval()
    weights = {
        name.replace("self_attn.", "self_attn.mixer.attention."): tensor
        for name, tensor in stock.state_dict().items()
    }
    decoder.load_state_dict(weights)
    tgt, memory, padding = torch.randn(2, 6, D), torch.randn(2, 9, D), padding_of(9, 4)
    mask = get_lookahead_mask(tgt).isinf()
    want = stock(tgt, memory, tgt_mask=mask, memory_key_padding_mask=padding)
    got = decoder(tgt, memory, memory_key_padding_mask=padding)
    torch.testing.assert_close(got[0], want[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[2][-1], want[2][-1], atol=1e-5, rtol=1e-5)


def test_running_mean_of_the_paper() -> None:
    """In the lite mode, a token gets the mean of s(x) over itself and the tokens before it."""
    mixer: Any = first_layer(make("SummaryMixing", {"mode": "SummaryMixing-lite"})).mixer
    x_BUD = torch.randn(1, 6, D)
    own_BUD = torch.stack([mixer(x_BUD[:, t : t + 1])[:, 0] for t in range(6)], dim=1)
    count_U1 = torch.arange(1, 7)[:, None]
    torch.testing.assert_close(mixer(x_BUD), own_BUD.cumsum(1) / count_U1, atol=1e-5, rtol=1e-5)


def make_model(**options: Any) -> TransformerASR:
    torch.manual_seed(0)
    given = {"decoder_attention": "SummaryMixing", **options}
    return TransformerASR(V, 24, D, 4, 1, 2, 64, kernel_size=7, **given).eval()


@pytest.mark.parametrize(("name", "options"), FORMS)
@torch.no_grad()
def test_model_steps_as_it_decodes(name: str, options: dict) -> None:
    model = make_model(decoder_attention=name, decoder_mixer_options=options)
    encoder_out, lengths = torch.randn(2, 11, D), torch.tensor([5, 9])
    tokens = torch.randint(1, V, (2, 7))
    want, weights = model.decode(tokens, encoder_out, lengths)
    assert weights.shape == (2, 7, 11) and weights[0, :, 5:].abs().max() == 0
    state, outputs = model.initial_state(encoder_out, lengths), []
    for t in range(7):
        features, state = model.step(tokens[:, t], state)
        outputs.append(features)
    torch.testing.assert_close(torch.stack(outputs, 1), want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_training_equals_decoding() -> None:
    model = make_model()
    src, share = torch.randn(2, 20, 24), torch.tensor([0.5, 0.8])
    tgt = torch.tensor([[1, 5, 3, 0, 0], [1, 4, 6, 7, 2]])
    encoded, decoded = model(src, tgt, share)
    whole, _ = model.decode(tgt, encoded, (share * 20).round())
    torch.testing.assert_close(decoded[0, :3], whole[0, :3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded[1], whole[1], atol=1e-5, rtol=1e-5)
    alone, decoded_alone = model(src[:1, :10], tgt[:1, :3])
    torch.testing.assert_close(encoded[:1, :10], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded[:1, :3], decoded_alone, atol=1e-5, rtol=1e-5)


class SteppingSearcher(S2STransformerBeamSearcher):
    """SpeechBrain's beam search on the decoder's state instead of whole prefixes."""

    def permute_mem(self, memory: Any, index: Tensor) -> Any:
        return self.model.decoder.reorder(memory, index, same_memory=True)

    def forward_step(
        self, inp_tokens: Tensor, memory: Any, enc_states: Tensor, enc_lens: Tensor
    ) -> tuple[Tensor, Any, None]:
        if memory is None:
            memory = self.model.initial_state(enc_states, enc_lens)
        features, memory = self.model.step(inp_tokens, memory)
        return self.softmax(self.fc(features) / self.temperature), memory, None


@pytest.fixture
def search() -> tuple[TransformerASR, dict, Tensor, Tensor]:
    """A model with an output layer that says varied things, the searchers' options, inputs."""
    model = make_model()
    output = Linear(V, input_size=D)
    nn.init.normal_(output.w.weight, std=0.5)
    options = {
        "modules": [model, output],
        "bos_index": BOS,
        "eos_index": EOS,
        "min_decode_ratio": 0.0,
        "max_decode_ratio": 1.0,
    }
    return model, options, torch.randn(2, 12, D), torch.tensor([7 / 12, 1.0])


@torch.no_grad()
def test_greedy_search(search: tuple[TransformerASR, dict, Tensor, Tensor]) -> None:
    model, options, encoder_out, share = search
    hyps = S2STransformerGreedySearcher(**options)(encoder_out, share)[0]
    alone = S2STransformerGreedySearcher(**options)(encoder_out[:1], share[:1])[0]
    assert hyps[0] == alone[0] and any(len(set(hyp)) > 1 for hyp in hyps)
    state, tokens, said = model.initial_state(encoder_out, share * 12), torch.tensor([BOS] * 2), []
    for _ in range(max(len(hyp) for hyp in hyps)):
        features, state = model.step(tokens, state)
        tokens = options["modules"][1](features).argmax(-1)
        said.append(tokens.tolist())
    for row, hyp in enumerate(hyps):
        assert [step[row] for step in said][: len(hyp)] == hyp


@torch.no_grad()
def test_beam_search(search: tuple[TransformerASR, dict, Tensor, Tensor]) -> None:
    _, options, encoder_out, share = search
    options |= {"beam_size": 4, "topk": 3, "return_topk": True, "using_eos_threshold": False}
    want = S2STransformerBeamSearcher(**options)(encoder_out, share)
    got = SteppingSearcher(**options)(encoder_out, share)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert len({tuple(hyp.tolist()) for hyp in want[0].flatten(0, 1)}) > 2
    torch.testing.assert_close(got[2], want[2], atol=1e-4, rtol=1e-4)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


BRANCHFORMER = {"encoder_module": "branchformer", "num_encoder_layers": 18}
LITE = {"mode": "SummaryMixing-lite"}


@pytest.mark.parametrize(
    ("options", "encoder", "whole"),
    [
        ({**BRANCHFORMER, "nhead": 1}, 86.1, 119.3),
        ({**BRANCHFORMER, "nhead": 4}, 71.9, 105.2),
        ({**BRANCHFORMER, "nhead": 1, "mixer_options": LITE}, 67.1, 100.4),
        ({**BRANCHFORMER, "attention_type": "RelPosMHAXL"}, 76.6, 109.8),
        ({**BRANCHFORMER, "attention_type": "cnnonly"}, 43.5, 76.8),
        ({}, 68.0, 101.3),
        ({"attention_type": "RelPosMHAXL"}, 75.9, 109.1),
    ],
)
def test_sizes_of_the_papers(options: dict, encoder: float, whole: float) -> None:
    """arXiv 2307.07421: front end, encoder, 6 decoder layers, embedding and two output layers."""
    with torch.device("meta"):
        front_end = ConvFrontEnd2d(80, (64, 32))
        model = TransformerASR(5000, front_end.output_size, **options)
        outputs = 2 * count(nn.Linear(512, 5000))
    assert count(model.custom_tgt_module) == 5000 * 512
    assert abs(count(model.encoder) / 1e6 - encoder) < 0.06
    assert abs((count(front_end) + count(model) + outputs) / 1e6 - whole) < 0.06


@pytest.mark.parametrize(("nhead", "millions"), [(1, 28.39), (8, 22.88)])
def test_size_of_the_summary_decoder(nhead: int, millions: float) -> None:
    """25.23M with attention; a cell of 8 heads is smaller than attention, one of 1 head larger."""
    with torch.device("meta"):
        attention = count(MixerDecoder(6, nhead, 2048, 512, attention_type="regularMHA"))
        summary = count(MixerDecoder(6, nhead, 2048, 512))
    assert attention == 25_225_216
    assert abs(summary / 1e6 - millions) < 0.01


def test_heads_of_the_decoder() -> None:
    layer = first_layer(make_model(decoder_nhead=2).decoder)
    assert layer.nhead == layer.multihead_attn.att.num_heads == layer.mixer.nhead == 2
    assert first_layer(make_model().decoder).nhead == 4


def test_mixers_keep_their_initialisation() -> None:
    model = TransformerASR(V, 24, 256, 4, 1, 1, 2048, decoder_attention="SummaryMixing")
    layer, bound = first_layer(model.decoder), (256 / 4) ** -0.5
    assert 0.95 * bound < layer.mixer.input_proj.weight.abs().max() <= bound
    xavier = (2 / (256 + 2048)) ** 0.5
    assert abs(layer.pos_ffn.ffn[0].weight.std().item() / xavier - 1) < 0.05


@pytest.mark.parametrize(("name", "options"), OTHERS)
def test_mixers_that_see_the_future_are_refused(name: str, options: dict) -> None:
    with pytest.raises(UnsupportedByMixer, match="causal=True"):
        make(name, options)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="leaves a decoder layer without any exchange"):
        make_model(decoder_attention="cnnonly")
    with pytest.raises(InputError, match="unknown attention_type 'SumaryMixing'"):
        make_model(decoder_attention="SumaryMixing")
    with pytest.raises(InputError, match="has no option 'heads'"):
        make_model(decoder_mixer_options={"heads": 2})
    with pytest.raises(ValueError, match="leave tgt_mask"):
        make("SummaryMixing")(
            torch.randn(1, 3, D), torch.randn(1, 3, D), tgt_mask=torch.zeros(3, 3)
        )
    model = TransformerASR(V, 24, D, 4, 1, 0, 64)
    for call in (model.forward, model.decode):
        with pytest.raises(InputError, match="num_decoder_layers of at least 1"):
            call(torch.ones(1, 3), torch.randn(1, 8, 24))
    with pytest.raises(InputError, match="num_decoder_layers of at least 1"):
        model.initial_state(torch.randn(1, 8, 24))
