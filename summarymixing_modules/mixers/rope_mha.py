"""Multi-head self-attention with rotary positions, fused and without a dense mask.

Shape suffixes: B batch, T frames, S visible frames, D model features, H heads, E head features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.mixers.attention_cache import CachedAttention
from summarymixing_modules.mixers.base import Capabilities
from summarymixing_modules.mixers.heads import head_features, project_heads
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.attention import attend
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.rope import rotate


class RoPEMHA(CachedAttention):
    """Softmax attention (arXiv 1706.03762) with RoPE (arXiv 2104.09864).

    The same function and parameters as SpeechBrain's ``RoPEMHA`` (its scale 1/√D included), so
    weights move between the two; here no T×T mask is built and streams keep rotated keys.

    Args:
        enc_dim: features D.
        nhead: heads H; D/H must be even.
        attention_dropout: on the attention weights. 0 keeps PyTorch on its fastest kernels.
        causal: frame t sees frames up to t only.

    Raises:
        InputError: heads that do not divide D, or leave an odd number of features.
    """

    capabilities = Capabilities(linear_time=False, positions="rotary")

    def __init__(
        self, enc_dim: int, nhead: int, attention_dropout: float = 0.0, causal: bool = False
    ) -> None:
        super().__init__(enc_dim, causal)
        head_features(enc_dim, nhead, rotary=True)
        self.nhead, self.attention_dropout = nhead, attention_dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * enc_dim, enc_dim))
        self.out_proj = nn.Linear(enc_dim, enc_dim)
        self.scale = 1 / math.sqrt(enc_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``."""
        dropout = self.attention_dropout if self.training else 0.0
        qkv = self.project(x_BTD, 0)
        return self._output(attend(*qkv, padding_BT, chunks, self.scale, dropout))

    def project(self, x_BTD: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """See ``CachedAttention.project``; queries and keys are rotated."""
        query, key, value = project_heads(x_BTD, self.in_proj_weight, self.nhead)
        return rotate(query, position), rotate(key, position), value

    def read(
        self, query_BHTE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, seen_BTS: Tensor
    ) -> Tensor:
        """See ``CachedAttention.read``."""
        y_BHTE = F.scaled_dot_product_attention(
            query_BHTE, key_BHSE, value_BHSE, attn_mask=seen_BTS[:, None], scale=self.scale
        )
        return self._output(y_BHTE)

    def _output(self, y_BHTE: Tensor) -> Tensor:
        return self.out_proj(y_BHTE.transpose(1, 2).flatten(2))


@register_mixer("RoPEMHA", RoPEMHA.capabilities, source="arXiv 1706.03762, 2104.09864")
def build_rope_mha(size: MixerSize, *, attention_dropout: float = 0.0) -> RoPEMHA:
    """Builds RoPE attention for a host layer."""
    return RoPEMHA(size.d_model, size.nhead, attention_dropout, size.causal)
