"""Softmax attention under chunk masks, block of queries by block of queries, forward and backward.

Whole chunks are grouped into blocks of at least ``QUERY_BLOCK`` queries, and each block attends to
the keys that it can see. Autograd would keep the mask of every block, and all of them are half a
T×T matrix where all the past is visible. So nothing of a block is kept, the backward pass computes
it once more, and memory is O(T).

Both passes are custom operators: ``torch.compile`` calls them and does not unroll their loops, so
one graph serves all lengths.

Shape suffixes: B batch, H heads, T query frames, S key frames, E features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype
from summarymixing_modules.ops.library import LIBRARY, register_operator

QUERY_BLOCK = 256
CPU_ROWS = 64


class Block(NamedTuple):
    """Some queries and the keys that at least one of them sees."""

    queries: slice
    keys: slice


def blocks_of(length: int, chunks: Chunks, queries: int) -> Iterator[Block]:
    """The blocks of an utterance, in order, of whole chunks and at least so many queries."""
    size = math.ceil(queries / chunks.size) * chunks.size
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = 0 if chunks.left is None else max(0, start - chunks.left * chunks.size)
        yield Block(slice(start, stop), slice(first, stop))


def visible_in_block(
    block: Block, chunks: Chunks, padding_BT: Tensor | None, device: torch.device
) -> Tensor:
    """Which keys the queries of a block see, as (1 or B, 1, T, S) booleans.

    Every frame sees itself, padded ones too, so that no row of scores is empty.
    """
    query_T = torch.arange(block.queries.start, block.queries.stop, device=device)
    key_S = torch.arange(block.keys.start, block.keys.stop, device=device)
    behind_TS = query_T[:, None] // chunks.size - key_S // chunks.size
    seen_TS = behind_TS >= 0
    if chunks.left is not None:
        seen_TS &= behind_TS <= chunks.left
    if padding_BT is None:
        return seen_TS[None, None]
    seen_BTS = seen_TS & ~padding_BT[:, None, block.keys]
    return (seen_BTS | (query_T[:, None] == key_S))[:, None]


def _attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    seed: Tensor | None,
    size: int,
    left: int | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """The operator: ``attend_in_blocks`` with the seed of what is dropped."""
    y_BHTE, chunks, device = torch.empty_like(value_BHTE), Chunks(size, left), query_BHTE.device
    generator = _generator(seed, device)
    queries = QUERY_BLOCK if generator is None else _rows(device)
    for block in blocks_of(query_BHTE.shape[2], chunks, queries):
        visible_BHTS = visible_in_block(block, chunks, padding_BT, device)
        query, key, value = _parts(block, query_BHTE, key_BHTE, value_BHTE)
        if generator is None:
            y = F.scaled_dot_product_attention(query, key, value, visible_BHTS, scale=scale)
        else:
            weights = _weights(query, key, visible_BHTS, scale)
            y = (weights * _kept(weights, dropout, generator)).to(value.dtype) @ value
        y_BHTE[:, :, block.queries] = y
    return y_BHTE


def _backward(
    grad_BHTE: Tensor,
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    seed: Tensor | None,
    size: int,
    left: int | None,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values.

    With scores S = scale · q kᵀ, weights P = softmax(S) and dP = dy vᵀ:
    dv = Pᵀ dy,  dS = P ⊙ (dP − Σ P ⊙ dP),  dq = scale · dS k,  dk = scale · dSᵀ q.
    """
    inputs, chunks, device = (
        (query_BHTE, key_BHTE, value_BHTE),
        Chunks(size, left),
        grad_BHTE.device,
    )
    dtype, generator = accumulation_dtype(grad_BHTE.dtype), _generator(seed, device)
    totals = [torch.zeros_like(tensor, dtype=dtype) for tensor in inputs]
    for block in blocks_of(query_BHTE.shape[2], chunks, _rows(device)):
        visible_BHTS = visible_in_block(block, chunks, padding_BT, device)
        query, key, value = (part.to(dtype) for part in _parts(block, *inputs))
        grad = grad_BHTE[:, :, block.queries].to(dtype)
        weights = used = _weights(query, key, visible_BHTS, scale)
        grad_weights = grad @ value.mT
        if generator is not None:
            kept = _kept(weights, dropout, generator)
            used, grad_weights = weights * kept, grad_weights * kept
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, dtype).mul_(scale)
        grad_query, grad_key, grad_value = _parts(block, *totals)
        grad_query += grad_scores @ key
        grad_key += grad_scores.mT @ query
        grad_value += used.mT @ grad
    found = [total.to(tensor.dtype) for total, tensor in zip(totals, inputs, strict=True)]
    return found[0], found[1], found[2]


def _parts(
    block: Block, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Views of what a block is about."""
    return query[:, :, block.queries], key[:, :, block.keys], value[:, :, block.keys]


def _rows(device: torch.device) -> int:
    """Queries of a block whose weights are written out: few where a cache is to hold them."""
    return CPU_ROWS if device.type == "cpu" else QUERY_BLOCK


def _weights(query: Tensor, key: Tensor, visible: Tensor, scale: float) -> Tensor:
    scores_BHTS = (scale * query @ key.mT).to(accumulation_dtype(query.dtype))
    return scores_BHTS.masked_fill_(~visible, -torch.inf).softmax(dim=-1)


def _generator(seed: Tensor | None, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device).manual_seed(int(seed))


def _kept(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Factors of dropout: 0, or 1 / (1 − p)."""
    kept = torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator)
    return kept.div_(1 - dropout)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.settings = inputs[5:]


def _differentiate(ctx: Any, grad_BHTE: Tensor) -> tuple[Tensor | None, ...]:
    grads = _blocks_backward(grad_BHTE, *ctx.saved_tensors, *ctx.settings)
    return *grads, *[None] * 6


_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor? padding, Tensor? seed"
_SETTINGS = "SymInt size, SymInt? left, float scale, float dropout"
_blocks = register_operator(
    f"chunked_attention({_INPUTS}, {_SETTINGS}) -> Tensor",
    _attend,
    lambda query, key, value, *_: torch.empty_like(value),
)
_blocks_backward = register_operator(
    f"chunked_attention_backward(Tensor grad, {_INPUTS}, {_SETTINGS}) -> (Tensor, Tensor, Tensor)",
    _backward,
    lambda grad, query, key, value, *_: tuple(map(torch.empty_like, (query, key, value))),
)
torch.library.register_autograd(
    "summarymixing::chunked_attention", _differentiate, setup_context=_save, lib=LIBRARY
)


def attend_in_blocks(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    chunks: Chunks,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each frame over its chunk and its left context; arguments as in ``attend``.

    Returns:
        y_BHTE; padded frames see themselves.
    """
    # From it both passes draw the same weights to drop.
    seed = torch.randint(2**62, (), dtype=torch.long) if dropout else None
    return _blocks(
        query_BHTE, key_BHTE, value_BHTE, padding_BT, seed, chunks.size, chunks.left, scale, dropout
    )


def _flops(query_shape: Any, *inputs: Any, **_: Any) -> int:
    """2 for each multiply-add of two products, with every key of a block."""
    batch, heads, length, features = query_shape
    pairs = sum(
        (queries.stop - queries.start) * (keys.stop - keys.start)
        for queries, keys in blocks_of(length, Chunks(*inputs[4:6]), QUERY_BLOCK)
    )
    return 4 * batch * heads * pairs * features


def _backward_flops(grad_shape: Any, *inputs: Any, **_: Any) -> int:
    """The scores once more, and two products for the gradient of each of the two."""
    return _flops(*inputs) * 5 // 2


#: For ``FlopCounterMode``, which does not look inside operators.
FLOP_FORMULAS = {
    torch.ops.summarymixing.chunked_attention: _flops,
    torch.ops.summarymixing.chunked_attention_backward: _backward_flops,
}
