"""The selective scan (ops/selective_scan.py) in tiles, forward and backward, in plain PyTorch.

The states of all frames are N times larger than the input, so they are never held at once. The
scan walks over tiles of some utterances and some frames that fit in a cache. It keeps the state at
the start of each tile, and the backward pass computes the states of a tile again from there:
memory is O(T·E). Decays are exponentials of Δ·A ≤ 0 and products of such: nothing can overflow.

On a CPU the frames of a tile follow one another. Where a kernel launch costs more than its
arithmetic (GPU), they are cut into chunks that are scanned side by side from zero and then joined:
a loop over the frames of one chunk, and one over the chunks.

Both passes are custom operators: ``torch.compile`` calls them and does not unroll their loops.

Shape suffixes: B batch, T frames, E features, N states of a feature; in a tile R utterances,
L frames, C chunks, K frames of a chunk; S tiles after the first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from summarymixing_modules.ops.chunks import accumulation_dtype
from summarymixing_modules.ops.library import LIBRARY, register_operator


class Tile(NamedTuple):
    """How much is computed at once.

    Attributes:
        elements: numbers in a buffer of states; the backward pass has three buffers.
        frames: L, frames of a tile.
        chunk: K, frames that follow one another; L / K chunks are scanned side by side.
    """

    elements: int
    frames: int
    chunk: int


_LOG2_E = 1 / math.log(2)

CPU_TILE = Tile(elements=2**20, frames=32, chunk=32)
ACCELERATOR_TILE = Tile(elements=2**24, frames=256, chunk=16)


def default_tile(device: torch.device) -> Tile:
    """The tile that suits a device."""
    return CPU_TILE if device.type == "cpu" else ACCELERATOR_TILE


class _Tiles:
    """Slices of a batch, and buffers that every tile uses again.

    Args:
        x_BTE: gives the sizes and the device.
        a_EN: A.
        tile: how much is computed at once.
    """

    def __init__(self, x_BTE: Tensor, a_EN: Tensor, tile: Tile) -> None:
        self.batch, self.length, self.features = x_BTE.shape
        self.states, self.chunk = a_EN.shape[1], tile.chunk
        self.dtype = accumulation_dtype(x_BTE.dtype)
        self.a_NE = a_EN.T.to(self.dtype).contiguous()
        self.frames = min(tile.frames, self.length)
        per_row = self.frames * self.states * self.features
        self.rows = min(self.batch, max(1, tile.elements // per_row))

    def rows_of(self) -> Iterator[slice]:
        """Which utterances are scanned together."""
        for start in range(0, self.batch, self.rows):
            yield slice(start, min(start + self.rows, self.batch))

    def frames_of(self) -> list[slice]:
        """The frames of the tiles, in order."""
        starts = range(0, self.length, self.frames)
        return [slice(start, min(start + self.frames, self.length)) for start in starts]

    def buffer(self, extra_frames: int = 0) -> Tensor:
        """Room for the states of a tile."""
        frames = self.frames + extra_frames
        return self.a_NE.new_empty(self.rows * frames * self.states * self.features)

    def view(self, buffer: Tensor, like_RLX: Tensor, extra_frames: int = 0) -> Tensor:
        """The part of a buffer that a tile fills, (R, L, N, E) and contiguous."""
        rows, frames = like_RLX.shape[0], like_RLX.shape[1] + extra_frames
        shape = (rows, frames, self.states, self.features)
        return buffer[: rows * frames * self.states * self.features].view(shape)

    def start(self, initial_BNE: Tensor | None, rows: slice) -> Tensor:
        """A state that was handed in, or zero."""
        if initial_BNE is not None:
            return initial_BNE[rows].to(self.dtype)
        return self.a_NE.new_zeros(rows.stop - rows.start, self.states, self.features)

    def cut(self, rows: slice, frames: slice, *tensors: Tensor) -> list[Tensor]:
        """A tile of (B, T, …) tensors, in the dtype of the states."""
        return [tensor[rows, frames].to(self.dtype) for tensor in tensors]

    def decays(self, delta_RLE: Tensor, out: Tensor) -> Tensor:
        """exp(Δ·A), as a power of 2: PyTorch computes those in about half the time on a CPU."""
        return torch.mul(delta_RLE[:, :, None], self.a_NE * _LOG2_E, out=out).exp2_()


def _scan(
    x_BTE: Tensor,
    delta_BTE: Tensor,
    a_EN: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    initial_BNE: Tensor | None,
    want_state: bool,
    keep: bool,
    tile: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """The scan; see ``tiled_scan`` for the arguments.

    ``keep`` is for the backward pass, and ``tile`` holds the fields of a ``Tile``.

    Returns:
        y_BTE, the last state (empty without ``want_state``), and the states at the starts of all
        tiles but the first (B, S, N, E), empty without ``keep``.
    """
    y_BTE, last_BNE, kept_BSNE = _room_for_scan(
        x_BTE, delta_BTE, a_EN, b_BTN, c_BTN, initial_BNE, want_state, keep, tile
    )
    tiles = _Tiles(x_BTE, a_EN, Tile(*tile))
    buffers = tiles.buffer(), tiles.buffer()
    for rows in tiles.rows_of():
        state_RNE = tiles.start(initial_BNE, rows)
        for index, frames in enumerate(tiles.frames_of()):
            if keep and index:
                kept_BSNE[rows, index - 1] = state_RNE
            x, delta, b, c = tiles.cut(rows, frames, x_BTE, delta_BTE, b_BTN, c_BTN)
            decay = tiles.decays(delta, out=tiles.view(buffers[0], x))
            states = tiles.view(buffers[1], x)
            torch.mul((delta * x)[:, :, None], b[..., None], out=states)
            # A copy, because the next tile writes over this one.
            state_RNE = _recur_(decay, states, state_RNE, tiles.chunk).clone()
            y_BTE[rows, frames] = (c[:, :, None] @ states).squeeze(2)
        if want_state:
            last_BNE[rows] = state_RNE
    return y_BTE, last_BNE, kept_BSNE


def _room_for_scan(
    x_BTE: Tensor,
    delta_BTE: Tensor,
    a_EN: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    initial_BNE: Tensor | None,
    want_state: bool,
    keep: bool,
    tile: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised outputs of ``_scan``."""
    (batch, length, features), states = x_BTE.shape, a_EN.shape[1]
    new = functools.partial(x_BTE.new_empty, dtype=accumulation_dtype(x_BTE.dtype))
    kept = -(-length // tile[1]) - 1 if keep else 0
    last_BNE = new((batch if want_state else 0, states, features))
    return x_BTE.new_empty(x_BTE.shape), last_BNE, new((batch, kept, states, features))


def _backward(
    grad_y_BTE: Tensor,
    grad_last_BNE: Tensor | None,
    x_BTE: Tensor,
    delta_BTE: Tensor,
    a_EN: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    initial_BNE: Tensor | None,
    kept_BSNE: Tensor,
    tile: list[int],
) -> list[Tensor]:
    """Gradients of x, Δ, A, B, C and, where there is one, of the initial state.

    With g_t = ∂L/∂h_t = C_t·dy_t + exp(Δ_{t+1}·A)·g_{t+1} and
    q_t = ∂L/∂(Δ_t·A) = g_t · exp(Δ_t·A) · h_{t−1}.
    """
    grads = _room_for_backward(
        grad_y_BTE,
        grad_last_BNE,
        x_BTE,
        delta_BTE,
        a_EN,
        b_BTN,
        c_BTN,
        initial_BNE,
        kept_BSNE,
        tile,
    )
    tiles = _Tiles(x_BTE, a_EN, Tile(*tile))
    grad_a_NE = torch.zeros_like(tiles.a_NE)
    buffers = tiles.buffer(), tiles.buffer(extra_frames=1), tiles.buffer()
    for rows in tiles.rows_of():
        carry_RNE = tiles.start(grad_last_BNE, rows)
        for index, frames in reversed(list(enumerate(tiles.frames_of()))):
            start_RNE = kept_BSNE[rows, index - 1] if index else tiles.start(initial_BNE, rows)
            parts = tiles.cut(rows, frames, grad_y_BTE, x_BTE, delta_BTE, b_BTN, c_BTN)
            *found, carry_RNE = _backward_tile(tiles, buffers, start_RNE, carry_RNE, *parts)
            grad_a_NE += found.pop()
            for whole, part in zip((grads[0], grads[1], grads[3], grads[4]), found, strict=True):
                whole[rows, frames] = part
        if initial_BNE is not None:
            grads[5][rows] = carry_RNE
    grads[2].copy_(grad_a_NE.T)
    return grads


def _backward_tile(
    tiles: _Tiles,
    buffers: tuple[Tensor, Tensor, Tensor],
    start_RNE: Tensor,
    carry_RNE: Tensor,
    grad_y: Tensor,
    x: Tensor,
    delta: Tensor,
    b: Tensor,
    c: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of x, Δ, B, C and A from one tile, and of the state before it."""
    decay = tiles.decays(delta, out=tiles.view(buffers[0], x))
    states = tiles.view(buffers[1], x, extra_frames=1)
    before, after, spare = states[:, :-1], states[:, 1:], tiles.view(buffers[2], x)
    inputs = delta * x
    states[:, 0] = start_RNE
    torch.mul(inputs[:, :, None], b[..., None], out=after)
    _recur_(decay, after, start_RNE, tiles.chunk)
    grad_c = torch.mul(after, grad_y[:, :, None], out=spare).sum(dim=3)

    grad_h = torch.mul(grad_y[:, :, None], c[..., None], out=spare)
    grad_h[:, -1] += carry_RNE
    _recur_(decay[:, 1:], grad_h[:, :-1], grad_h[:, -1], tiles.chunk, reverse=True)
    grad_inputs = (b[:, :, None] @ grad_h).squeeze(2)
    grad_exponent = decay.mul_(grad_h)
    carry_RNE = grad_exponent[:, 0].clone()
    grad_exponent.mul_(before)
    grad_b = torch.mul(grad_h, inputs[:, :, None], out=after).sum(dim=3)

    spare = torch.mul(grad_exponent, tiles.a_NE, out=spare)
    grad_delta = spare.sum(dim=2).addcmul_(grad_inputs, x)
    grad_a = torch.mul(grad_exponent, delta[:, :, None], out=spare).sum(dim=(0, 1))
    return grad_inputs * delta, grad_delta, grad_b, grad_c, grad_a, carry_RNE


def _room_for_backward(
    grad_y_BTE: Tensor,
    grad_last_BNE: Tensor | None,
    x_BTE: Tensor,
    delta_BTE: Tensor,
    a_EN: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    initial_BNE: Tensor | None,
    kept_BSNE: Tensor,
    tile: list[int],
) -> list[Tensor]:
    """Uninitialised outputs of ``_backward``."""
    inputs = (x_BTE, delta_BTE, a_EN, b_BTN, c_BTN, initial_BNE)
    return [tensor.new_empty(tensor.shape) for tensor in inputs if tensor is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, _, tile = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.tile = tile
    # Zeros for the kept states, which nothing else uses, would cost as much as the states.
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_y_BTE, grad_last_BNE, _ = grads
    saved = ctx.saved_tensors  # activation checkpointing gives them once
    if grad_y_BTE is None:
        grad_y_BTE = torch.zeros_like(saved[0])
    found = _scan_backward(grad_y_BTE, grad_last_BNE, *saved, ctx.tile)
    return *found, *[None] * (9 - len(found))


def _recur_(
    decay_RLNE: Tensor, value_RLNE: Tensor, carry_RNE: Tensor, chunk: int, reverse: bool = False
) -> Tensor:
    """In place: value_t += decay_t · value_{t−1}, or value_{t+1} when reversed.

    Args:
        decay_RLNE: factors in [0, 1].
        value_RLNE: inputs, which become the states.
        carry_RNE: the state before the first frame (or after the last one).
        chunk: K; only more frames than that are cut into chunks.
        reverse: from the last frame to the first.

    Returns:
        the last state computed.
    """
    length = decay_RLNE.shape[1]
    whole = length // chunk * chunk if length > chunk else 0
    parts = [(slice(whole), True), (slice(whole, length), False)]
    for part, chunked in reversed(parts) if reverse else parts:
        decay, value = decay_RLNE[:, part], value_RLNE[:, part]
        if decay.shape[1] == 0:
            continue
        if chunked:
            carry_RNE = _recur_chunks_(decay, value, carry_RNE, chunk, reverse)
        else:
            carry_RNE = _recur_frames_(decay, value, carry_RNE, reverse)
    return carry_RNE


def _recur_frames_(decay: Tensor, value: Tensor, carry: Tensor, reverse: bool) -> Tensor:
    """``_recur_``, one frame after the other."""
    frames = list(zip(decay.unbind(1), value.unbind(1), strict=True))
    for decay_RNE, value_RNE in reversed(frames) if reverse else frames:
        carry = value_RNE.addcmul_(decay_RNE, carry)
    return carry


def _recur_chunks_(
    decay: Tensor, value: Tensor, carry_RNE: Tensor, chunk: int, reverse: bool
) -> Tensor:
    """``_recur_``, all chunks side by side from zero, and then what came before them."""
    value_RCKNE = value.unflatten(1, (-1, chunk))
    faded_RCKNE = decay.unflatten(1, (-1, chunk)).clone()
    values, faded = list(value_RCKNE.unbind(2)), list(faded_RCKNE.unbind(2))
    if reverse:
        values, faded = values[::-1], faded[::-1]
    for k in range(1, chunk):
        values[k].addcmul_(faded[k], values[k - 1])
        faded[k].mul_(faded[k - 1])
    chunks = list(zip(values[-1].unbind(1), faded[-1].unbind(1), strict=True))
    before = []
    for value_RNE, faded_RNE in reversed(chunks) if reverse else chunks:
        before.append(carry_RNE)
        carry_RNE = torch.addcmul(value_RNE, faded_RNE, carry_RNE)
    before_RCNE = torch.stack(before[::-1] if reverse else before, dim=1)
    value_RCKNE.addcmul_(faded_RCKNE, before_RCNE[:, :, None])
    return carry_RNE


_INPUTS = "Tensor x, Tensor delta, Tensor a, Tensor b, Tensor c, Tensor? initial"

scan_tiles = register_operator(
    f"selective_scan({_INPUTS}, bool want_state, bool keep, int[] tile)"
    " -> (Tensor, Tensor, Tensor)",
    _scan,
    _room_for_scan,
)
_scan_backward = register_operator(
    f"selective_scan_backward(Tensor grad_y, Tensor? grad_last, {_INPUTS}, Tensor kept, int[] tile)"
    " -> Tensor[]",
    _backward,
    _room_for_backward,
)
torch.library.register_autograd(
    "summarymixing::selective_scan", _differentiate, setup_context=_save, lib=LIBRARY
)
