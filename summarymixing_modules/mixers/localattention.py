"""Softmax attention over a sliding window (Longformer, arXiv 2004.05150, §3.1), O(T · window).

Shape suffixes: B batch, T frames, S remembered and new frames, D model features, H heads,
E features of a head, G global tokens, W frames of the window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.attention_cache import AttentionCache
from summarymixing_modules.mixers.base import Capabilities, Mixer, UnsupportedByMixer
from summarymixing_modules.mixers.heads import HeadProjections, head_features
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.attention import attend
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.rope import rotate
from summarymixing_modules.ops.window_attention import Shared, window_attend


class LocalAttention(Mixer):
    """Each frame attends to the frames around it, with rotary positions (arXiv 2104.09864).

    With ``global_tokens``, G learned queries first summarise all frames, without positions; every
    frame then attends to the G summaries beside its window, again without positions. (Longformer's
    global attention, with its separate projections; its tokens live in the sequence and are one
    layer old when frames read them, which a mixer that is handed frames only cannot have.) An
    utterance is then summarised as a whole: no chunks, no streams, not causal.

    Args:
        enc_dim: features D.
        nhead: heads H; D/H must be even.
        window: frames to each side; with frames of 40 ms, 64 are 2.56 s.
        global_tokens: number of summaries G.
        attention_dropout: on the attention weights. 0 keeps PyTorch on its fastest kernels.
        causal: frame t sees frames t − window to t.

    Raises:
        InputError: heads that do not fit D, or a window or number of tokens out of range.
        UnsupportedByMixer: ``causal`` with global tokens.
    """

    capabilities = Capabilities(linear_time=True, positions="rotary")

    def __init__(
        self,
        enc_dim: int,
        nhead: int,
        window: int = 64,
        global_tokens: int = 0,
        attention_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        if window < 1:
            raise InputError(f"window={window} counts frames to each side: at least 1.")
        if global_tokens < 0:
            raise InputError(f"global_tokens={global_tokens} must be at least 0.")
        if global_tokens:
            self.capabilities = Capabilities(
                linear_time=True, causal=False, chunked=False, streaming=False, positions="rotary"
            )
        super().__init__(enc_dim, causal)
        features = head_features(enc_dim, nhead, rotary=True)
        self.nhead, self.window, self.attention_dropout = nhead, window, attention_dropout
        self.scale = 1 / math.sqrt(features)
        self.projections = HeadProjections(enc_dim, nhead)
        self.global_tokens = global_tokens
        if global_tokens:
            self.global_query_HGE = nn.Parameter(torch.randn(nhead, global_tokens, features))
            self.global_proj = nn.Linear(enc_dim, 2 * enc_dim)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``."""
        query_BHTE, key_BHTE, value_BHTE = self.projections(x_BTD)
        inputs = rotate(query_BHTE), rotate(key_BHTE), value_BHTE
        dropout, shared = self.attention_dropout if self.training else 0.0, None
        if self.global_tokens:
            shared = self._summaries(key_BHTE, value_BHTE, padding_BT, dropout)
            inputs, shared = _side_by_side(inputs, query_BHTE, shared)
        y_BHTE = window_attend(
            *inputs, padding_BT, self.window, chunks, self.scale, dropout, shared
        )
        return self.projections.output(y_BHTE[..., : value_BHTE.shape[-1]])

    def _summaries(
        self, key_BHTE: Tensor, value_BHTE: Tensor, padding_BT: Tensor | None, dropout: float
    ) -> Shared:
        """Keys and values (B, H, G, E) of the summaries of all frames."""
        query_BHGE = self.global_query_HGE.to(key_BHTE.dtype).expand(key_BHTE.shape[0], -1, -1, -1)
        read_BHGE = attend(query_BHGE, key_BHTE, value_BHTE, padding_BT, None, self.scale, dropout)
        both_BGX = self.global_proj(read_BHGE.transpose(1, 2).flatten(2))
        key, value = both_BGX.unflatten(-1, (self.nhead, -1)).transpose(1, 2).chunk(2, dim=-1)
        return key, value

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> AttentionCache:
        """Always of ``window`` frames: those before a stream began are hidden."""
        shape = (len(x_B0D), self.window, self.nhead, self.enc_dim // self.nhead)
        nothing_BWHE = x_B0D.new_zeros(shape)
        hidden_BW = x_B0D.new_ones(shape[:2], dtype=torch.bool)
        return AttentionCache((nothing_BWHE, nothing_BWHE), hidden_BW, 0)

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: AttentionCache
    ) -> tuple[Tensor, AttentionCache]:
        query_BHTE, key_BHTE, value_BHTE = self.projections(x_BTD)
        query_BHTE = rotate(query_BHTE, memory.position)
        key_BTHE = rotate(key_BHTE, memory.position).transpose(1, 2)
        memory = memory.extended((key_BTHE, value_BHTE.transpose(1, 2)), padding_BT)
        key_BHSE, value_BHSE = (tensor.transpose(1, 2) for tensor in memory.frames)
        seen_BTS = _seen_BTS(memory, x_BTD.shape[1], self.window, chunks)
        y_BHTE = F.scaled_dot_product_attention(
            query_BHTE, key_BHSE, value_BHSE, attn_mask=seen_BTS[:, None], scale=self.scale
        )
        return self.projections.output(y_BHTE), memory.last(self.window)

    def _unsupported(self, capability: str, request: str) -> UnsupportedByMixer:
        message = super()._unsupported(capability, request)
        return UnsupportedByMixer(f"{message} (localattention only with global_tokens=0.)")


def _side_by_side(
    rotated: tuple[Tensor, Tensor, Tensor], query_BHTE: Tensor, shared: Shared
) -> tuple[tuple[Tensor, Tensor, Tensor], Shared]:
    """Makes one softmax of scores with positions and scores without.

    [R·q ; q]·[R·k ; 0] is the score of a frame and [R·q ; q]·[0 ; g] that of a summary. Values get
    zeros to the same size, which PyTorch's fused kernels ask for.
    """
    after, before = (0, query_BHTE.shape[-1]), (query_BHTE.shape[-1], 0)
    query_BHTX = torch.cat([rotated[0], query_BHTE], dim=-1)
    inputs = query_BHTX, F.pad(rotated[1], after), F.pad(rotated[2], after)
    return inputs, (F.pad(shared[0], before), F.pad(shared[1], after))


def _seen_BTS(state: AttentionCache, length: int, window: int, chunks: Chunks) -> Tensor:
    """Which of the S frames the last ``length`` ones see; every frame sees itself."""
    frames, start = state.padding_BS.shape[1], state.position - length
    time_S = torch.arange(state.position - frames, state.position, device=state.padding_BS.device)
    apart_TS = (time_S[frames - length :, None] - time_S).abs()
    near_TS = apart_TS <= window
    if chunks.left is not None:
        near_TS &= time_S >= start - chunks.left * chunks.size
    return (near_TS & ~state.padding_BS[:, None]) | (apart_TS == 0)


@register_mixer(
    "localattention",
    LocalAttention.capabilities,
    source="arXiv 2004.05150, §3.1",
    forms={
        "localattention": {},
        "localattention-narrow": {"window": 8},
        "localattention-global": {"global_tokens": 4},
    },
)
def build_local_attention(
    size: MixerSize, *, window: int = 64, global_tokens: int = 0, attention_dropout: float = 0.0
) -> LocalAttention:
    """Builds sliding-window attention for a host layer."""
    return LocalAttention(
        size.d_model, size.nhead, window, global_tokens, attention_dropout, size.causal
    )
