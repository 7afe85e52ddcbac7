"""HyperMixing (HyperMixer, arXiv 2203.03691, §3; several heads: HyperConformer, arXiv 2305.18281).

Hypernetworks turn each token into its row of the two weight matrices of an MLP over time::

    W1 = MLP1(x + p),  W2 = MLP2(x + p)          one row of M numbers per frame and head
    y  = LayerNorm( W2 · GELU(W1ᵀ · x) )         per head; one LayerNorm over all of them

with p the sine positions. W1ᵀ·x is a sum over frames, which gives an exact form for chunks. With
all the past visible it is a prefix sum of one small matrix per chunk (ops/hypermixing.py): O(T).
With L chunks of left context, positions count from the first visible frame, so a chunk has another
matrix for each of the L + 1 chunks that see it: O(T·(L + 1)) time, O(T) memory.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D model features, H heads,
E features of a head, X = E + 1, M mixing units of a head, N = H·B·C, R = B·C·E.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.mixers.attention_cache import AttentionCache
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.layers import BlockLinear, split_heads
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype, pad_to_chunks
from summarymixing_modules.ops.hypermixing import (
    apply_maps,
    frame_sums,
    mixing_maps,
    product_dtype,
    recomputed,
)
from summarymixing_modules.ops.positions import sine_positions
from summarymixing_modules.ops.summary import masked


class HyperState(NamedTuple):
    """What a stream that sees all its past remembers.

    Attributes:
        sums_BHEX: S of the past (ops/hypermixing.py).
        position: index of the next frame.
    """

    sums_BHEX: Tensor
    position: int


class HyperNetwork(nn.Module):
    """Parallel MLPs, one per head: Linear(E, E), GELU, Linear(E, M).

    Args:
        enc_dim: D = H·E.
        hypernet_size: H·M.
        nhead: H.
    """

    def __init__(self, enc_dim: int, hypernet_size: int, nhead: int) -> None:
        super().__init__()
        self.hidden = BlockLinear(enc_dim, enc_dim, nhead)
        self.output = BlockLinear(enc_dim, hypernet_size, nhead)

    def last_layer(self) -> Tensor:
        """[weight ; bias] of the last layer as (H, X, M)."""
        return torch.cat([self.output.weight, self.output.bias], dim=1)


class HyperMixing(Mixer):
    """Multi-head HyperMixing of any length.

    The same function and parameters as SpeechBrain's ``HyperMixing`` (with its default
    ``fix_tm_hidden_size=False``), without its limit of 3000 frames and its B×T×T tensor.

    Args:
        enc_dim: features D; even, for the sine positions.
        hypernet_size: mixing units of all heads together, H·M.
        nhead: heads H.
        tied: W2 = W1.
        causal: frame t sees frames up to t only.

    Raises:
        ValueError: an odd D, or heads that divide D or ``hypernet_size`` unevenly.

    Example:
        >>> HyperMixing(512, 2048, nhead=8)(torch.rand(8, 60, 512)).shape
        torch.Size([8, 60, 512])
    """

    capabilities = Capabilities(linear_time=True)

    def __init__(
        self,
        enc_dim: int,
        hypernet_size: int,
        nhead: int = 1,
        tied: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__(enc_dim, causal)
        if enc_dim % 2:
            raise ValueError(f"enc_dim={enc_dim} must be even: half sines, half cosines.")
        for name, size in (("enc_dim", enc_dim), ("hypernet_size", hypernet_size)):
            if size < 1 or size % nhead:
                raise ValueError(f"{name}={size} must be a positive multiple of nhead={nhead}.")
        self.nhead, self.tied = nhead, tied
        self.first = HyperNetwork(enc_dim, hypernet_size, nhead)
        self.second = None if tied else HyperNetwork(enc_dim, hypernet_size, nhead)
        self.norm = nn.LayerNorm(enc_dim)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``. Full context is one chunk that spans the utterance."""
        length = x_BTD.shape[1]
        chunks = Chunks.spanning(chunks, length)
        x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunks.size)
        x_BTD = masked(x_BTD, padding_BT)
        size, count = chunks.size, x_BTD.shape[1] // chunks.size
        left = count if chunks.left is None else min(chunks.left, count)
        positions_TD = self._own_positions(x_BTD, size, left)
        first_HME, second_HME = self._hidden(x_BTD, positions_TD)
        seen_HBCEX = self._chunk_sums(x_BTD, first_HME, size)
        if count <= left + 1:
            seen_HBCEX = seen_HBCEX.cumsum(dim=2)
        else:
            start_HBCEX = seen_HBCEX[:, :, : left + 1].cumsum(dim=2)
            rest_HBCEX = self._windows(x_BTD, seen_HBCEX[:, :, left + 1 :], size, left)
            seen_HBCEX = torch.cat([start_HBCEX, rest_HBCEX], dim=2)
        return self._output(seen_HBCEX, second_HME, x_BTD)[:, :length]

    def _own_positions(self, x_BTD: Tensor, chunk_size: int, left: int) -> Tensor:
        """p of each frame, counted from the first frame that its own chunk sees."""
        length, features = x_BTD.shape[1:]
        span = min(length, (left + 1) * chunk_size)
        positions_TD = sine_positions(span, features, 0, x_BTD.device)
        repeats = (length - span) // chunk_size
        return torch.cat([positions_TD, positions_TD[-chunk_size:].repeat(repeats, 1)])

    def _hidden(self, x_BTD: Tensor, positions_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden features of both hypernetworks before GELU, as (H, B·T, E)."""
        tokens_HME = split_heads(x_BTD + positions_TD.to(x_BTD.dtype), self.nhead)
        first_HME = self.first.hidden(tokens_HME)
        if self.second is None:
            return first_HME, first_HME
        return first_HME, self.second.hidden(tokens_HME)

    def _chunk_sums(self, x_BTD: Tensor, hidden_HME: Tensor, chunk_size: int) -> Tensor:
        """S of each chunk, as (H, B, C, E, X)."""
        dtype = product_dtype(x_BTD)
        x_NKE = split_heads(x_BTD.to(dtype), self.nhead).unflatten(1, (-1, chunk_size))
        hidden_NKE = hidden_HME.unflatten(1, (-1, chunk_size)).flatten(0, 1)
        sums_NEX = frame_sums(x_NKE.flatten(0, 1), hidden_NKE, dtype)
        return sums_NEX.unflatten(0, (self.nhead, x_BTD.shape[0], -1))

    def _windows(self, x_BTD: Tensor, own_HBCEX: Tensor, chunk_size: int, left: int) -> Tensor:
        """S over the windows of the chunks that no longer see the first frame.

        Each of ``left`` places in a window adds the chunks that stand there, with the positions
        that they have there. The last place is the chunk itself, which ``own_HBCEX`` holds.
        """
        length = own_HBCEX.shape[2] * chunk_size
        for place in range(left):
            start = (1 + place) * chunk_size
            part_BTD = x_BTD[:, start : start + length]
            own_HBCEX = own_HBCEX + recomputed(self._sums_at, part_BTD, chunk_size, place)
        return own_HBCEX

    def _sums_at(self, x_BTD: Tensor, chunk_size: int, place: int) -> Tensor:
        """S of chunks that all stand at the same place of a window."""
        start, device = place * chunk_size, x_BTD.device
        positions_KD = sine_positions(chunk_size, self.enc_dim, start, device).to(x_BTD.dtype)
        tokens_BTD = (x_BTD.unflatten(1, (-1, chunk_size)) + positions_KD).flatten(1, 2)
        hidden_HME = self.first.hidden(split_heads(tokens_BTD, self.nhead))
        return self._chunk_sums(x_BTD, hidden_HME, chunk_size)

    def _output(self, seen_HBCEX: Tensor, hidden_HME: Tensor, x_BTD: Tensor) -> Tensor:
        """y_BTD from what each chunk sees and the hidden features of its frames."""
        dtype, groups = product_dtype(x_BTD), seen_HBCEX.shape[:3]
        second = self.first if self.second is None else self.second
        maps_HRX = mixing_maps(
            seen_HBCEX.flatten(1, 3), self.first.last_layer(), second.last_layer(), dtype
        )
        maps_NEX = maps_HRX.reshape(-1, *seen_HBCEX.shape[3:])
        hidden_NKE = hidden_HME.reshape(len(maps_NEX), -1, hidden_HME.shape[-1])
        y_HBTE = apply_maps(hidden_NKE, maps_NEX, dtype).unflatten(0, groups).flatten(2, 3)
        y_BTD = y_HBTE.permute(1, 2, 0, 3).flatten(2).to(accumulation_dtype(dtype))
        weight_D, bias_D = self.norm.weight.to(y_BTD.dtype), self.norm.bias.to(y_BTD.dtype)
        return F.layer_norm(y_BTD, weight_D.shape, weight_D, bias_D, self.norm.eps).to(x_BTD.dtype)

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> HyperState | AttentionCache:
        """All the past is (B, H, E, X) numbers. A limited left context is its frames: their
        positions change with every step.
        """
        if left is not None:
            return AttentionCache.empty(x_B0D)
        features = self.enc_dim // self.nhead
        shape = (len(x_B0D), self.nhead, features, features + 1)
        return HyperState(x_B0D.new_zeros(shape, dtype=accumulation_dtype(x_B0D.dtype)), 0)

    def _step(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunks: Chunks,
        memory: HyperState | AttentionCache,
    ) -> tuple[Tensor, HyperState | AttentionCache]:
        length = x_BTD.shape[1]
        if isinstance(memory, AttentionCache):
            memory = memory.extended((x_BTD,), padding_BT)
            y_BSD = self.mix(memory.frames[0], memory.padding_BS, None)
            return y_BSD[:, -length:], memory.trimmed(chunks)
        x_BTD = masked(x_BTD, padding_BT)
        positions_TD = sine_positions(length, self.enc_dim, memory.position, x_BTD.device)
        first_HME, second_HME = self._hidden(x_BTD, positions_TD)
        new_HBEX = self._chunk_sums(x_BTD, first_HME, length).squeeze(2)
        sums_BHEX = memory.sums_BHEX + new_HBEX.transpose(0, 1)
        y_BTD = self._output(sums_BHEX.transpose(0, 1).unsqueeze(2), second_HME, x_BTD)
        return y_BTD, HyperState(sums_BHEX, memory.position + length)


@register_mixer(
    "hypermixing",
    HyperMixing.capabilities,
    source="arXiv 2203.03691, 2305.18281",
    forms={"hypermixing": {}, "hypermixing-tied": {"tied": True}},
)
def build_hyper_mixing(
    size: MixerSize, *, tied: bool = False, hypernet_size: int | None = None
) -> HyperMixing:
    """Builds HyperMixing for a host layer; its mixing units default to the host's d_ffn."""
    hypernet_size = size.d_ffn if hypernet_size is None else hypernet_size
    return HyperMixing(size.d_model, hypernet_size, size.nhead, tied, size.causal)
