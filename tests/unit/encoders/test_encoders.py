"""Encoders with every mixer: padding, chunks, streaming, sizes, SpeechBrain's contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.encoders import BranchformerEncoder, ConformerEncoder
from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.mixers import mixer_names, mixer_spec

D = 32
KINDS: dict[str, Callable[..., MixerEncoder]] = {
    "conformer": lambda **options: ConformerEncoder(2, D, 64, 4, 7, **options),
    "branchformer": lambda **options: BranchformerEncoder(
        2, D, 4, 7, csgu_linear_units=48, **options
    ),
}
FORMS = [
    pytest.param(name, dict(options), id=form)
    for name in mixer_names()
    for form, options in mixer_spec(name).variants.items()
]


def make(kind: str, name: str, **options: object) -> MixerEncoder:
    torch.manual_seed(0)
    return KINDS[kind](attention_type=name, **options).eval()


def padding_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "options"), FORMS)
def test_alone_equals_beside_longer_ones(kind: str, name: str, options: dict) -> None:
    encoder = make(kind, name, **options)
    x_BTD = torch.randn(2, 40, D)
    beside, _ = encoder(x_BTD, src_key_padding_mask=padding_of(17, 40))
    alone, _ = encoder(x_BTD[:1, :17])
    torch.testing.assert_close(beside[:1, :17], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "options"), FORMS)
@pytest.mark.parametrize(("chunk_size", "left"), [(4, None), (6, 2), (3, 0)])
@torch.no_grad()
def test_streaming_equals_chunked_forward(
    kind: str, name: str, options: dict, chunk_size: int, left: int | None
) -> None:
    encoder = make(kind, name, **options)
    if not encoder.layers[0].mha_layer.capabilities.streaming:
        pytest.skip(f"{name} does not stream")
    config, padding = DynChunkTrainConfig(chunk_size, left), padding_of(22, 15)
    x_BTD = torch.randn(2, 22, D)
    want, _ = encoder(x_BTD, src_key_padding_mask=padding, dynchunktrain_config=config)
    context, chunks = encoder.make_streaming_context(config), []
    for start in range(0, 22, chunk_size):
        part = slice(start, start + chunk_size)
        y_BTD, _ = encoder.forward_streaming(
            x_BTD[:, part], context, src_key_padding_mask=padding[:, part]
        )
        chunks.append(y_BTD)
    torch.testing.assert_close(torch.cat(chunks, 1)[~padding], want[~padding], atol=1e-5, rtol=1e-5)


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
def test_hidden_states_and_layerdrop(kind: str) -> None:
    encoder = make(kind, "SummaryMixing", output_hidden_states=True, layerdrop_prob=0.5)
    x_BTD = torch.randn(2, 9, D)
    output, weights, hidden = encoder(x_BTD)
    assert weights == [None, None] and len(hidden) == 3 and hidden[0] is x_BTD
    torch.testing.assert_close(encoder.norm(hidden[-1]), output)
    torch.manual_seed(1)
    kept = [len(encoder.train()(x_BTD)[1]) for _ in range(200)]
    assert 0.8 < sum(kept) / len(kept) < 1.2


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


@torch.no_grad()
def test_causal_conformer_sees_no_future() -> None:
    encoder = make("conformer", "SummaryMixing", causal=True)
    x_BTD = torch.randn(1, 20, D)
    early = encoder(x_BTD[:, :11])[0]
    torch.testing.assert_close(encoder(x_BTD)[0][:, :11], early, atol=1e-5, rtol=1e-5)


def test_relative_positions_may_come_from_the_host() -> None:
    encoder = make("conformer", "RelPosMHAXL")
    x_BTD = torch.randn(2, 9, D)
    given = encoder(x_BTD, pos_embs=encoder.relative_positions(x_BTD))[0]
    torch.testing.assert_close(given, encoder(x_BTD)[0])


def test_what_is_refused() -> None:
    encoder = make("conformer", "SummaryMixing")
    x_BTD = torch.randn(1, 8, D)
    with pytest.raises(ValueError, match="no dense src_mask"):
        encoder(x_BTD, src_mask=torch.zeros(8, 8, dtype=torch.bool))
    context = encoder.make_streaming_context(DynChunkTrainConfig(4))
    with pytest.raises(ValueError, match="at most 4 frames and got 8"):
        encoder.forward_streaming(x_BTD, context)
    encoder.forward_streaming(x_BTD[:, :3], context)
    with pytest.raises(ValueError, match="make a new context"):
        encoder.forward_streaming(x_BTD[:, :4], context)
    with pytest.raises(ValueError, match="unknown merge 'sum'"):
        make("branchformer", "SummaryMixing", merge="sum")
