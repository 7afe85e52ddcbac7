"""Mamba (arXiv 2312.00752), in one direction or, as in arXiv 2409.02596, in both.

One direction, for an input u and with the selective scan of ops/selective_scan.py::

    x, z = W_in·u                                  expand·D features each
    x    = SiLU(causal depthwise convolution of x)
    Δ, B, C = W_x·x,   Δ = softplus(W_Δ·Δ + b_Δ)   dt_rank, d_state and d_state features
    out  = W_out·((scan(x, Δ, −exp(A_log), B, C) + D·x) ⊙ SiLU(z))

The bidirectional form adds a second one, with weights of its own, that reads from the last frame to
the first. Padded frames are zeros to the convolution and have Δ = 0, so that they leave no trace in
a state, from whichever side it comes.

Shape suffixes: B batch (or batch × chunks), T frames, D model features, E inner features, N states
of a feature, W taps of the convolution before the current one, C chunks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.mixers.attention_cache import AttentionCache
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype, pad_to_chunks
from summarymixing_modules.ops.convolution import depthwise_conv
from summarymixing_modules.ops.mamba_kernels import fused_conv, fused_conv_available
from summarymixing_modules.ops.selective_scan import selective_scan, tiled_scan, window_states
from summarymixing_modules.ops.summary import masked

DELTA_RANGE = (1e-3, 1e-1)


class ScanInputs(NamedTuple):
    """Arguments of the selective scan, in its order."""

    x_BTE: Tensor
    delta_BTE: Tensor
    a_EN: Tensor
    b_BTN: Tensor
    c_BTN: Tensor

    def in_chunks(self, chunk_size: int) -> ScanInputs:
        """The same with every chunk as an utterance of its own."""
        x_XKE, delta_XKE, b_XKN, c_XKN = (
            _fold(t, chunk_size) for t in (self.x_BTE, self.delta_BTE, self.b_BTN, self.c_BTN)
        )
        return ScanInputs(x_XKE, delta_XKE, self.a_EN, b_XKN, c_XKN)


class MambaState(NamedTuple):
    """What a stream with unlimited left context remembers.

    Attributes:
        taps_BWE: the last inputs of the convolution.
        scan_BNE: the state of the scan.
    """

    taps_BWE: Tensor
    scan_BNE: Tensor


class MambaDirection(nn.Module):
    """Mamba from the first frame to the last. Parameters are named as in ``mamba-ssm``'s Mamba.

    Args:
        enc_dim: input and output features D.
        d_state: N.
        d_conv: taps of the convolution, W + 1.
        expand: E / D.
    """

    def __init__(self, enc_dim: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.dt_rank, self.d_state, self.reach = math.ceil(enc_dim / 16), d_state, d_conv - 1
        inner = expand * enc_dim
        self.in_proj = nn.Linear(enc_dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, padding=self.reach, groups=inner)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, enc_dim, bias=False)
        self._reset_delta()

    @torch.no_grad()
    def _reset_delta(self) -> None:
        """Starts with Δ log-uniform in ``DELTA_RANGE`` (arXiv 2312.00752, §3.6)."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        low, high = (math.log(limit) for limit in DELTA_RANGE)
        delta_E = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp_()
        # The inverse of softplus.
        self.dt_proj.bias.copy_(delta_E + torch.log(-torch.expm1(-delta_E)))

    def forward(self, x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
        """Mixes whole utterances."""
        x_BTE, z_BTE = self._project(x_BTD, padding_BT)
        scan = self._select(self._convolve(x_BTE), padding_BT)
        return self._output(selective_scan(*scan), scan.x_BTE, z_BTE)

    def step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, state: MambaState
    ) -> tuple[Tensor, MambaState]:
        """Mixes the next frames of a stream."""
        x_BTE, z_BTE = self._project(x_BTD, padding_BT)
        taps_BTE = torch.cat([state.taps_BWE, x_BTE], dim=1)
        scan = self._select(self._convolve(taps_BTE)[:, self.reach :], padding_BT)
        y_BTE, scan_BNE = tiled_scan(*scan, initial_BNE=state.scan_BNE, want_state=True)
        y_BTD = self._output(y_BTE, scan.x_BTE, z_BTE)
        return y_BTD, MambaState(taps_BTE[:, x_BTE.shape[1] :], scan_BNE)

    def limited(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunk_size: int, left: int
    ) -> Tensor:
        """Mixes chunks that see ``left`` > 0 chunks before them, in O(T·log left).

        Every chunk is scanned from the state that its window leaves (``window_states``). A chunk
        does not see beyond the one before it through the convolution, if it is as long as W.
        """
        batch, length, _ = x_BTD.shape
        if chunk_size < self.reach:
            return self._windows(x_BTD, padding_BT, chunk_size, left)
        x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunk_size)
        x_BTE, z_BTE = self._project(x_BTD, padding_BT)
        scan = self._select(self._convolve(x_BTE), padding_BT)
        later = scan.in_chunks(chunk_size)
        # To the chunk that a window starts with, there is nothing before it.
        first = self._select(
            self._convolve(_fold(x_BTE, chunk_size)),
            None if padding_BT is None else _fold(padding_BT, chunk_size),
        )
        last_BCNE = tiled_scan(*later, want_state=True)[1].unflatten(0, (batch, -1))
        first_BCNE = tiled_scan(*first, want_state=True)[1].unflatten(0, (batch, -1))
        elapsed_BCE = scan.delta_BTE.unflatten(1, (-1, chunk_size)).sum(dim=2)
        fade_BCNE = torch.exp(elapsed_BCE[:, :, None] * scan.a_EN.T)
        start_BCNE = window_states(first_BCNE, last_BCNE, fade_BCNE, left)
        y_BTE = tiled_scan(*later, initial_BNE=start_BCNE.flatten(0, 1))[0].view_as(x_BTE)
        return self._output(y_BTE, scan.x_BTE, z_BTE)[:, :length]

    def _windows(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunk_size: int, left: int
    ) -> Tensor:
        """The same by mixing every window on its own, in O(T·left)."""
        batch, length, _ = x_BTD.shape
        if padding_BT is None:
            padding_BT = x_BTD.new_zeros(batch, length, dtype=torch.bool)
        before = left * chunk_size
        missing = -length % chunk_size
        x_BTD = F.pad(x_BTD, (0, 0, before, missing))
        padding_BT = F.pad(padding_BT, (before, missing), value=True)
        window = before + chunk_size
        x_XTD = x_BTD.unfold(1, window, chunk_size).transpose(2, 3).flatten(0, 1)
        padding_XT = padding_BT.unfold(1, window, chunk_size).flatten(0, 1)
        y_XTD = self(x_XTD, padding_XT)[:, before:]
        return y_XTD.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length]

    def _project(self, x_BTD: Tensor, padding_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """x and z; the projection has no bias and keeps the zeros of padded frames."""
        x_BTE, z_BTE = self.in_proj(masked(x_BTD, padding_BT)).chunk(2, dim=-1)
        return x_BTE, z_BTE

    def _convolve(self, x_BTE: Tensor) -> Tensor:
        """SiLU of the causal convolution; before the first frame there are zeros."""
        conv = self.conv1d
        if fused_conv_available(x_BTE.device, conv.kernel_size[0]):
            return fused_conv(x_BTE, conv.weight, conv.bias)
        y_BTE = depthwise_conv(x_BTE, conv.weight, conv.bias, causal=True)
        # The rest works on all features of a frame: their order in memory is worth a copy.
        return F.silu(y_BTE.contiguous())

    def _select(self, x_BTE: Tensor, padding_BT: Tensor | None) -> ScanInputs:
        """What the scan does depends on the frame."""
        sizes = (self.dt_rank, self.d_state, self.d_state)
        rank_BTR, b_BTN, c_BTN = self.x_proj(x_BTE).split(sizes, dim=-1)
        dtype = accumulation_dtype(x_BTE.dtype)
        delta_BTE = F.softplus(self.dt_proj(rank_BTR).to(dtype))
        a_EN = -torch.exp(self.A_log.to(dtype))
        return ScanInputs(x_BTE, masked(delta_BTE, padding_BT), a_EN, b_BTN, c_BTN)

    def _output(self, y_BTE: Tensor, x_BTE: Tensor, z_BTE: Tensor) -> Tensor:
        skip_BTE = torch.addcmul(y_BTE, x_BTE, self.D.to(y_BTE.dtype))
        return self.out_proj(skip_BTE * F.silu(z_BTE))


class Mamba(Mixer):
    """Mamba-1, bidirectional by default.

    Under chunks the backward direction starts at the end of each chunk; the forward one sees the
    chunks to the left. Streams have no state for the backward direction.

    Args:
        enc_dim: features D.
        bidirectional: add a second Mamba, with its own weights, over the reversed sequence.
        d_state: states of each inner feature.
        d_conv: taps of the causal convolution.
        expand: inner features per feature.
        causal: frame t sees frames up to t only. With ``bidirectional`` the second Mamba then sees
            frame t alone: ``bidirectional=False`` is the causal Mamba of the paper.

    Raises:
        ValueError: a size below 1.
    """

    capabilities = Capabilities(linear_time=True)

    def __init__(
        self,
        enc_dim: int,
        bidirectional: bool = True,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        causal: bool = False,
    ) -> None:
        super().__init__(enc_dim, causal)
        for name, size in (("d_state", d_state), ("d_conv", d_conv), ("expand", expand)):
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1.")
        self.capabilities = replace(type(self).capabilities, bidirectional=bidirectional)
        self.left_to_right = MambaDirection(enc_dim, d_state, d_conv, expand)
        self.right_to_left = None
        if bidirectional:
            self.right_to_left = MambaDirection(enc_dim, d_state, d_conv, expand)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``."""
        chunks = Chunks.spanning(chunks, x_BTD.shape[1])
        y_BTD = self._from_the_left(x_BTD, padding_BT, chunks)
        if self.right_to_left is not None:
            y_BTD = y_BTD + _by_chunks(
                self.right_to_left, x_BTD, padding_BT, chunks.size, reverse=True
            )
        return y_BTD

    def _from_the_left(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks) -> Tensor:
        size, left = chunks.size, chunks.left
        if left is None or left >= math.ceil(x_BTD.shape[1] / size) - 1:
            return self.left_to_right(x_BTD, padding_BT)
        if left == 0:
            return _by_chunks(self.left_to_right, x_BTD, padding_BT, size)
        return self.left_to_right.limited(x_BTD, padding_BT, size, left)

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> MambaState | AttentionCache:
        """With limited left context the state is the visible inputs: a state of the scan cannot
        forget the chunks that leave the window.
        """
        if left is not None:
            return AttentionCache.empty(x_B0D)
        inner, states = self.left_to_right.A_log.shape
        scan = (len(x_B0D), states, inner)
        return MambaState(
            x_B0D.new_zeros(len(x_B0D), self.left_to_right.reach, inner),
            x_B0D.new_zeros(scan, dtype=accumulation_dtype(x_B0D.dtype)),
        )

    def _step(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunks: Chunks,
        memory: MambaState | AttentionCache,
    ) -> tuple[Tensor, MambaState | AttentionCache]:
        length = x_BTD.shape[1]
        if isinstance(memory, MambaState):
            y_BTD, memory = self.left_to_right.step(x_BTD, padding_BT, memory)
        else:
            memory = memory.extended((x_BTD,), padding_BT)
            y_BTD = self.left_to_right(memory.frames[0], memory.padding_BS)[:, -length:]
            memory = memory.trimmed(chunks)
        if self.right_to_left is not None:
            y_BTD = y_BTD + _by_chunks(self.right_to_left, x_BTD, padding_BT, length, reverse=True)
        return y_BTD, memory


def _fold(x_BTX: Tensor, chunk_size: int) -> Tensor:
    """(B, T, …) → (B·C, K, …)."""
    return x_BTX.unflatten(1, (-1, chunk_size)).flatten(0, 1)


def _by_chunks(
    direction: MambaDirection,
    x_BTD: Tensor,
    padding_BT: Tensor | None,
    chunk_size: int,
    reverse: bool = False,
) -> Tensor:
    """Mixes every chunk on its own, from its last frame to its first when reversed."""
    batch, length, _ = x_BTD.shape
    x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunk_size)
    x_XTD = _fold(x_BTD, chunk_size)
    padding_XT = None if padding_BT is None else _fold(padding_BT, chunk_size)
    if reverse:
        x_XTD, padding_XT = x_XTD.flip(1), None if padding_XT is None else padding_XT.flip(1)
    y_XTD = direction(x_XTD, padding_XT)
    y_XTD = y_XTD.flip(1) if reverse else y_XTD
    return y_XTD.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length]


@register_mixer(
    "mamba",
    Mamba.capabilities,
    source="arXiv 2312.00752; bidirectional as in arXiv 2409.02596",
    forms={"mamba": {}, "mamba-unidirectional": {"bidirectional": False}},
)
def build_mamba(
    size: MixerSize,
    *,
    bidirectional: bool = True,
    d_state: int = 16,
    d_conv: int = 4,
    expand: int = 2,
) -> Mamba:
    """Builds Mamba for a host layer; it has no heads, activation or dropout of the host's."""
    return Mamba(size.d_model, bidirectional, d_state, d_conv, expand, size.causal)
