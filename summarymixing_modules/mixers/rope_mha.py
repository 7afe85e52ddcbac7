"""Multi-head self-attention with rotary positions, fused and without a dense mask.

Shape suffixes: B batch, T frames, S visible frames, D model features, H heads, E head features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.mixers.attention_cache import AttentionCache
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.attention import attend
from summarymixing_modules.ops.rope import rotate


class RoPEMHA(Mixer):
    """Softmax attention (arXiv 1706.03762) with RoPE (arXiv 2104.09864).

    The same function and parameters as SpeechBrain's ``RoPEMHA`` (its scale 1/√D included), so
    weights move between the two; here no T×T mask is built and streams keep rotated keys.

    Args:
        enc_dim: features D.
        nhead: heads H; D/H must be even.
        attention_dropout: on the attention weights. 0 keeps PyTorch on its fastest kernels.
        causal: frame t sees frames up to t only.

    Raises:
        ValueError: heads that do not divide D, or leave an odd number of features.
    """

    capabilities = Capabilities(linear_time=False, positions="rotary")

    def __init__(
        self, enc_dim: int, nhead: int, attention_dropout: float = 0.0, causal: bool = False
    ) -> None:
        super().__init__(enc_dim, causal)
        if enc_dim % nhead or (enc_dim // nhead) % 2:
            raise ValueError(
                f"enc_dim={enc_dim} must give each of nhead={nhead} heads the same even number of "
                "features."
            )
        self.nhead, self.attention_dropout = nhead, attention_dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * enc_dim, enc_dim))
        self.out_proj = nn.Linear(enc_dim, enc_dim)
        self.scale = 1 / math.sqrt(enc_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def mix(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int | None,
        left_context_size: int | None,
        pos_embs: Tensor | None = None,
    ) -> Tensor:
        """See ``Mixer.forward``."""
        query_BHTE, key_BHTE, value_BHTE = self._project(x_BTD, 0)
        y_BHTE = attend(
            query_BHTE,
            key_BHTE,
            value_BHTE,
            padding_BT,
            chunk_size,
            left_context_size,
            self.scale,
            self.attention_dropout if self.training else 0.0,
        )
        return self._output(y_BHTE)

    def _project(self, x_BTD: Tensor, offset: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated from position ``offset`` on, and values, as (B, H, T, E)."""
        qkv_BTHX = F.linear(x_BTD, self.in_proj_weight).unflatten(-1, (self.nhead, -1))
        query_BHTE, key_BHTE, value_BHTE = qkv_BTHX.transpose(1, 2).chunk(3, dim=-1)
        return rotate(query_BHTE, offset), rotate(key_BHTE, offset), value_BHTE

    def _output(self, y_BHTE: Tensor) -> Tensor:
        return self.out_proj(y_BHTE.transpose(1, 2).flatten(2))

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AttentionCache:
        """See ``Mixer.initial_state``: rotated keys and values of the visible past."""
        anchor = self._anchor()
        shape = (batch_size, 0, self.nhead, self.enc_dim // self.nhead)
        return AttentionCache.empty(
            (shape, shape), left_context_size, device or anchor.device, dtype or anchor.dtype
        )

    def step(
        self, x_BTD: Tensor, state: AttentionCache, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, AttentionCache]:
        """See ``Mixer.step``."""
        self._check_input(x_BTD, key_padding_mask)
        query_BHTE, key_BHTE, value_BHTE = self._project(x_BTD, state.position)
        state = state.extended(
            (key_BHTE.transpose(1, 2), value_BHTE.transpose(1, 2)), key_padding_mask
        )
        key_BSHE, value_BSHE = state.frames
        y_BHTE = F.scaled_dot_product_attention(
            query_BHTE,
            key_BSHE.transpose(1, 2),
            value_BSHE.transpose(1, 2),
            attn_mask=~state.hidden_BTS(x_BTD.shape[1])[:, None],
            scale=self.scale,
        )
        return self._output(y_BHTE), state.trimmed()


@register_mixer("RoPEMHA", RoPEMHA.capabilities, source="arXiv 1706.03762, 2104.09864")
def build_rope_mha(size: MixerSize, *, attention_dropout: float = 0.0) -> RoPEMHA:
    """Builds RoPE attention for a host layer."""
    return RoPEMHA(size.d_model, size.nhead, attention_dropout, size.causal)
