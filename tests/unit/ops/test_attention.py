"""Fused attention under chunks against the whole matrix of scores; its memory, graphs and cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode

from summarymixing_modules.bench.measure import kept_bytes, peak_bytes
from summarymixing_modules.ops import attention_blocks
from summarymixing_modules.ops.attention import attend
from summarymixing_modules.ops.attention_blocks import FLOP_FORMULAS, attend_in_blocks
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.naive import naive_attend
from tests.tensors import padding_of

CHUNKS = [None, Chunks(1), Chunks(1, 3), Chunks(4), Chunks(4, 0), Chunks(7, 2), Chunks(40, 1)]
SCALE = 0.3


@pytest.fixture(autouse=True)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUERY_BLOCK", "CPU_ROWS"):
        monkeypatch.setattr(attention_blocks, name, 32)


def inputs(length: int, batch: int = 2, features: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (batch, 3, length, features)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("length", [1, 13, 85])
@pytest.mark.parametrize("padded", [False, True])
def test_outputs_and_gradients_equal_the_matrix(
    chunks: Chunks | None, length: int, padded: bool
) -> None:
    padding = padding_of(length, max(1, length // 3)) if padded else None
    real_BHTE = torch.ones(2, 1, length, 1) if padding is None else ~padding[:, None, :, None]
    seen = torch.randn(2, 3, length, 8, dtype=torch.float64) * real_BHTE
    results = []
    for function in (attend, naive_attend):
        qkv = inputs(length)
        y_BHTE = function(*qkv, padding, chunks, SCALE)
        results.append([y_BHTE * real_BHTE, *torch.autograd.grad((y_BHTE * seen).sum(), qkv)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def both_passes(run: Callable[[], Tensor]) -> None:
    run().sum().backward()


@pytest.mark.parametrize("chunks", [Chunks(8), Chunks(8, 2)])
def test_memory_grows_with_length(chunks: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept between the passes, and live in either of them, masks inside of PyTorch included."""
    monkeypatch.setattr(attention_blocks, "QUERY_BLOCK", 256)
    kept, live = [], []
    for length in (1024, 4096):
        qkv = [tensor.detach().float().requires_grad_() for tensor in inputs(length, 1)]
        run = partial(attend, *qkv, padding_of(length), chunks, SCALE)
        kept.append(kept_bytes(run, torch.nn.Identity()))
        live.append(peak_bytes(partial(both_passes, run)))
    assert kept[1] <= 4.3 * kept[0] and live[1] <= 4.3 * live[0], (kept, live)


def test_one_graph_serves_all_lengths() -> None:
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(
        lambda q, k, v, padding: attend(q, k, v, padding, Chunks(4), SCALE), backend=counter
    )
    for length in range(30, 130, 10):
        qkv, padding = inputs(length), padding_of(length, length // 2)
        torch.testing.assert_close(compiled(*qkv, padding), attend(*qkv, padding, Chunks(4), SCALE))
    assert counter.frame_count <= 2  # the first length, and all others


def test_dropout_is_that_of_the_weights_in_both_passes() -> None:
    """Shares, mean, a gradient that fits the draw, and another draw next time."""
    query, key, value = inputs(60)
    chunks, p = Chunks(4, 2), 0.25

    def output(value: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return attend_in_blocks(query, key, value, None, chunks, SCALE, p)

    # With values of the identity, the output is the matrix of weights itself.
    eye = torch.eye(60, dtype=torch.float64).expand(2, 3, -1, -1)
    weights, dropped = attend(query, key, eye, None, chunks, SCALE), output(eye, 1)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], weights[kept] / (1 - p))
    assert abs(float(kept.double().mean() / (weights != 0).double().mean()) - (1 - p)) < 0.02
    assert not torch.equal(dropped, output(eye, 2))
    seen = torch.randn_like(value)
    got = torch.autograd.grad((output(value, 1) * seen).sum(), (query, key, value))
    dense = naive_weights(query, key, chunks) * kept / (1 - p)
    want = torch.autograd.grad((dense @ value * seen).sum(), (query, key, value))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


def naive_weights(query: Tensor, key: Tensor, chunks: Chunks) -> Tensor:
    eye = torch.eye(query.shape[2], dtype=query.dtype).expand(*query.shape[:2], -1, -1)
    return naive_attend(query, key, eye, None, chunks, SCALE)


def test_bfloat16_gradients_are_summed_in_float32() -> None:
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs(600, 1)]
    exact = [tensor.detach().double().requires_grad_() for tensor in half]
    for qkv in (half, exact):
        attend(*qkv, None, Chunks(4), SCALE)[..., ::2].double().pow(2).sum().backward()
    for one, other in zip(half, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).norm() / other.grad.norm() < 0.01


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_operator_obeys_the_rules_of_torch_library(dropout: float) -> None:
    qkv = [tensor.detach().float().requires_grad_() for tensor in inputs(41)]
    seed = torch.tensor(3) if dropout else None
    torch.library.opcheck(
        torch.ops.summarymixing.chunked_attention.default,
        (*qkv, padding_of(41, 20), seed, 4, 2, SCALE, dropout),
        rtol=1e-4,
        atol=1e-5,
    )


def test_products_are_counted() -> None:
    """2 FLOPs for a multiply-add; 2 products forward, 5 backward, with the keys of each block."""
    qkv = inputs(64)
    with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        attend(*qkv, None, Chunks(4), SCALE).sum().backward()
    pairs = 2 * 3 * (32 * 32 + 32 * 64)
    assert counter.get_total_flops() == 7 * 2 * 8 * pairs
