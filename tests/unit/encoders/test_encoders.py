"""Encoders with every mixer: padding, chunks, streaming, sizes, SpeechBrain's contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from speechbrain.lobes.models.convolution import ConvolutionalSpatialGatingUnit
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders import (
    BranchformerEncoder,
    ConformerEncoder,
    ContextNetEncoder,
    TransformerEncoder,
)
from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.encoders.convolution import MaskedGatingUnit
from summarymixing_modules.encoders.layer import Utterances
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import (
    UnsupportedByMixer,
    mixer_forms,
)
from summarymixing_modules.models.asr.summary_decoder import MixerDecoder
from tests.tensors import padding_of

D = 32
KINDS: dict[str, Callable[..., MixerEncoder]] = {
    "conformer": lambda **options: ConformerEncoder(2, D, 64, 4, 7, **options),
    "branchformer": lambda **options: BranchformerEncoder(
        2, D, 4, 7, csgu_linear_units=48, **options
    ),
    "transformer": lambda **options: TransformerEncoder(2, 4, 64, D, **options),
}
FORMS = {form.name: (form.attention_type, dict(form.options)) for form in mixer_forms()}
CAPABILITIES = {form.name: form.capabilities for form in mixer_forms()}
STREAMING = [form for form in FORMS if CAPABILITIES[form].streaming]
# The mixer decides what it remembers: encoders are tested at length with a few of them.
FEW = ["SummaryMixing", "RoPEMHA", "hypermixing"]


def make(kind: str, form: str = "SummaryMixing", **options: Any) -> MixerEncoder:
    torch.manual_seed(0)
    name, of_the_form = FORMS.get(form, (form, {}))
    return KINDS[kind](attention_type=name, **of_the_form, **options).eval()


def assert_same_alone_and_beside(
    module: nn.Module, run: Callable[[Tensor, Tensor | None], Tensor]
) -> None:
    """Output and all gradients of an utterance of 9 frames, with a longer one beside it or not.

    Args:
        module: whose gradients are compared.
        run: (x_BTD, padding_BT) → y_BTD.
    """
    x_BTD, target = torch.randn(2, 23, D), torch.randn(9, D)
    found = []
    for batch, padding in ((x_BTD, padding_of(9, 23)), (x_BTD[:1, :9], None)):
        module.zero_grad()
        leaf = batch.clone().requires_grad_()
        y_TD = run(leaf, padding)[0, :9]
        (y_TD * target).sum().backward()
        assert leaf.grad is not None
        weights = [p.grad for p in module.parameters() if p.grad is not None]
        found.append((y_TD, leaf.grad[0, :9], weights))
        assert not leaf.grad[0, 9:].any() and not leaf.grad[1:].any(), "gradient into the unseen"
    torch.testing.assert_close(*found, atol=2e-4, rtol=1e-4)


def assert_encodes_the_same_alone_and_beside(encoder: nn.Module) -> None:
    assert_same_alone_and_beside(encoder, lambda x, pad: encoder(x, src_key_padding_mask=pad)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_alone_equals_beside_longer_ones(kind: str, form: str) -> None:
    """In training; the mixers' and the layers' dropout is 0."""
    assert_encodes_the_same_alone_and_beside(make(kind, form).train())


def test_other_hosts_alone_and_beside_longer_ones() -> None:
    """Without a mixer; norms after the sum; ContextNet (as it is used: its batch norm learns from
    the batch); the decoder, padded on either side."""
    for encoder in (
        make("conformer", "cnnonly").train(),
        make("branchformer", "cnnonly").train(),
        make("transformer", normalize_before=True).train(),
        make("conformer", activation_checkpointing=True).train(),
        ContextNetEncoder(D, 2, [8, 10], num_layers=2, inner_dim=3, dropout=0.0).eval(),
    ):
        assert_encodes_the_same_alone_and_beside(encoder)
    decoder, other = MixerDecoder(2, 4, 64, D), torch.randn(2, 11, D)

    def decode(x_BUD: Tensor, pad: Tensor | None) -> Tensor:
        return decoder(x_BUD, other[: len(x_BUD)], tgt_key_padding_mask=pad)[0]

    def read(x_BSD: Tensor, pad: Tensor | None) -> Tensor:
        return decoder(other[: len(x_BSD)], x_BSD, memory_key_padding_mask=pad)[0]

    assert_same_alone_and_beside(decoder, decode)
    assert_same_alone_and_beside(decoder, read)


@torch.no_grad()
def stream(
    encoder: MixerEncoder, x_BTD: Tensor, padding: Tensor, config: DynChunkTrainConfig
) -> Tensor:
    """Output of ``forward_streaming``, chunk by chunk."""
    context, chunks = encoder.make_streaming_context(config), []
    for start in range(0, x_BTD.shape[1], config.chunk_size):
        part = slice(start, start + config.chunk_size)
        y_BTD, _ = encoder.forward_streaming(
            x_BTD[:, part], context, src_key_padding_mask=padding[:, part]
        )
        chunks.append(y_BTD)
    return torch.cat(chunks, 1)


@torch.no_grad()
def assert_streams(
    encoder: MixerEncoder, length: int, chunk: tuple[int, int | None], causal: bool = False
) -> None:
    """A stream equals ``forward``, of a causal encoder that without chunks."""
    config, padding = DynChunkTrainConfig(*chunk), padding_of(length, length * 2 // 3)
    x_BTD = torch.randn(2, length, D)
    want, _ = encoder(
        x_BTD, src_key_padding_mask=padding, dynchunktrain_config=None if causal else config
    )
    got = stream(encoder, x_BTD, padding, config)
    torch.testing.assert_close(got[~padding], want[~padding], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", STREAMING)
def test_streaming_equals_chunked_forward(kind: str, form: str) -> None:
    assert_streams(make(kind, form), 40, (6, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [(5, None), (3, 0), (16, 3)])
def test_long_streams_equal_chunked_forward(kind: str, chunk: tuple[int, int | None]) -> None:
    for form in FEW:
        assert_streams(make(kind, form), 100, chunk)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *(("conformer", form) for form in STREAMING if CAPABILITIES[form].causal),
        *(("transformer", form) for form in FEW),
    ],
)
def test_causal_streams_equal_forward_whatever_the_chunk(kind: str, form: str) -> None:
    encoder = make(kind, form, causal=True)
    assert_streams(encoder, 22, (8, None), causal=True)
    assert_streams(encoder, 9, (1, 3))


@pytest.mark.parametrize("form", ["SummaryMixing", "cnnonly"])
def test_chunks_of_causal_encoders_are_single_frames(form: str) -> None:
    encoder, x_BTD = make("conformer", form, causal=True), torch.randn(1, 16, D)
    with pytest.raises(ValueError, match="chunk_size=8 contradicts causal=True"):
        encoder(x_BTD, dynchunktrain_config=DynChunkTrainConfig(8))
    with pytest.raises(InputError, match="left_context_size=2 of a causal encoder.*chunk_size=8"):
        encoder.make_streaming_context(DynChunkTrainConfig(8, 2))


@pytest.mark.parametrize("form", FEW)
@torch.no_grad()
def test_streams_under_autocast(form: str) -> None:
    encoder, x_BTD = make("conformer", form), torch.randn(2, 90, D)
    padding, config = padding_of(90, 55), DynChunkTrainConfig(8, None)
    want, _ = encoder(x_BTD, src_key_padding_mask=padding, dynchunktrain_config=config)
    with torch.autocast("cpu", torch.bfloat16):
        got = stream(encoder, x_BTD, padding, config)
    assert (got - want)[~padding].norm() / want[~padding].norm() < 0.015


@pytest.mark.parametrize("kind", KINDS)
def test_mixers_that_do_not_stream_say_so(kind: str) -> None:
    encoder = make(kind, "fastformer")
    context = encoder.make_streaming_context(DynChunkTrainConfig(4))
    with pytest.raises(UnsupportedByMixer, match="Mixers that can: .+"):
        encoder.forward_streaming(torch.randn(1, 4, D), context)


@pytest.mark.parametrize(
    ("build", "millions"),
    [
        (lambda: BranchformerEncoder(18, 512, 1), 86.1),
        (lambda: BranchformerEncoder(18, 512, 4), 71.9),
        (lambda: BranchformerEncoder(18, 512, 1, mode="SummaryMixing-lite"), 67.1),
        (lambda: BranchformerEncoder(18, 512, 8, attention_type="RelPosMHAXL"), 76.6),
        (lambda: ConformerEncoder(12, 512, 2048, 8), 68.0),
        (lambda: ConformerEncoder(12, 512, 2048, 8, attention_type="RelPosMHAXL"), 75.9),
        (lambda: ConformerEncoder(12, 512, 2048, 8, mode="SummaryMixing-fast"), 72.7),
        (
            lambda: ConformerEncoder(
                12,
                512,
                2048,
                8,
                mode="SummaryMixing-fast",
                local_proj_out_dim=256,
                summary_out_dim=256,
            ),
            66.4,
        ),
    ],
)
def test_sizes_of_the_papers(build: Callable[[], MixerEncoder], millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in build().parameters())
    assert abs(count / 1e6 / millions - 1) < 0.005


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_hidden_states_and_layerdrop(kind: str) -> None:
    encoder = make(kind, output_hidden_states=True, layerdrop_prob=0.5)
    x_BTD = torch.randn(2, 3, D)
    output, weights, hidden = encoder(x_BTD)
    assert weights == [None, None] and len(hidden) == 3 and hidden[0] is x_BTD
    torch.testing.assert_close(encoder.norm(hidden[-1]), output)
    torch.manual_seed(1)
    kept = [len(encoder.train()(x_BTD)[1]) for _ in range(100)]
    assert 0.7 < sum(kept) / len(kept) < 1.3


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dropped_layer_has_gradients_of_zero(dtype: torch.dtype, checkpointed: bool) -> None:
    """It changes no value whatever its weights are; DDP finds a gradient for every parameter."""
    encoder = make("conformer", "SummaryMixing", activation_checkpointing=checkpointed).train()
    x_BTD = torch.randn(2, 9, D, requires_grad=True)
    encoder._dropped_layers = lambda: {1}  # type: ignore[method-assign]
    with torch.no_grad():
        next(encoder.layers[1].parameters()).fill_(torch.inf)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        want_BTD, got_BTD = encoder.norm(encoder.layers[0](x_BTD)[0]), encoder(x_BTD)[0]
        loss = got_BTD.square().sum()
    assert torch.equal(got_BTD, want_BTD) and got_BTD.dtype == want_BTD.dtype
    loss.backward()
    assert all(p.grad.count_nonzero() == 0 for p in encoder.layers[1].parameters())
    assert all(p.grad.isfinite().all() and p.grad.any() for p in encoder.layers[0].parameters())


@pytest.mark.parametrize("kind", ["conformer", "transformer"])
def test_causal_encoder_sees_no_future(kind: str) -> None:
    encoder = make(kind, causal=True)
    x_BTD = torch.randn(1, 9, D, requires_grad=True)
    output = encoder(x_BTD)[0]
    for t in range(9):
        (grad,) = torch.autograd.grad(output[0, t].pow(2).sum(), x_BTD, retain_graph=True)
        seen = grad[0].abs().amax(-1) > 0
        assert seen.tolist() == [i <= t for i in range(9)]


def test_relative_positions_may_come_from_the_host() -> None:
    encoder = make("conformer", "RelPosMHAXL")
    x_BTD = torch.randn(2, 9, D)
    given = encoder(x_BTD, pos_embs=encoder.relative_positions(x_BTD))[0]
    torch.testing.assert_close(given, encoder(x_BTD)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused(kind: str) -> None:
    encoder, x_BTD = make(kind), torch.randn(1, 8, D)
    with pytest.raises(ValueError, match="no dense src_mask"):
        encoder(x_BTD, src_mask=torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="SummaryMixing does not use pos_embs"):
        encoder(x_BTD, pos_embs=torch.zeros(1, 15, D))
    with pytest.raises(ValueError, match="got no frames"):
        encoder(x_BTD[:, :0])
    context = encoder.make_streaming_context(DynChunkTrainConfig(4))
    for length in (0, 8):
        with pytest.raises(ValueError, match=f"chunk of 1 to 4 frames and got {length}"):
            encoder.forward_streaming(x_BTD[:, :length], context)
    encoder.forward_streaming(x_BTD[:, :3], context)
    with pytest.raises(ValueError, match="make a new context"):
        encoder.forward_streaming(x_BTD[:, :4], context)


def test_unknown_merges_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown merge 'sum'"):
        make("branchformer", merge="sum")


@torch.no_grad()
def test_a_reflecting_gate_is_speechbrains_and_blind_to_padding() -> None:
    """The utterance alone is reflected at its end; beside longer ones, likewise."""
    own = MaskedGatingUnit(2 * D, 7, padding_mode="reflect")
    stock = ConvolutionalSpatialGatingUnit(2 * D, 7)
    stock.load_state_dict(own.state_dict())
    x_BTD, lengths = torch.randn(2, 20, 2 * D), [9, 20]
    got_BTD = own(x_BTD, Utterances(padding_of(*lengths)))
    for row, length in enumerate(lengths):
        want_BTD = stock(x_BTD[row : row + 1, :length])
        torch.testing.assert_close(got_BTD[row : row + 1, :length], want_BTD)


def test_a_branchformer_that_reflects_takes_no_chunks() -> None:
    encoder, chunks = KINDS["branchformer"](padding_mode="reflect"), DynChunkTrainConfig(4)
    with pytest.raises(InputError, match="padding_mode=zeros"):
        encoder.make_streaming_context(chunks)
    with pytest.raises(InputError, match="padding_mode=zeros"):
        encoder(torch.randn(1, 9, D), dynchunktrain_config=chunks)
