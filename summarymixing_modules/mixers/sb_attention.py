"""SpeechBrain's own attention layers behind the contract: RelPosMHAXL and regularMHA.

They are quadratic in time and memory and take dense masks, which are built here, out of sight of
the host. Streams keep keys and values, and are computed from the layers' weights.

Shape suffixes: B batch, T frames, S visible frames, D model features, H heads, E head features.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.mixers.attention_cache import CachedAttention
from summarymixing_modules.mixers.base import Capabilities
from summarymixing_modules.mixers.heads import project_heads
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.attention import dense_hidden_mask
from summarymixing_modules.ops.chunks import Chunks


class RelPosMHAXL(CachedAttention):
    """SpeechBrain's attention with relative positions (Transformer-XL, arXiv 1901.02860, §3.3).

    Args:
        enc_dim: features D.
        nhead: heads.
        dropout: on the attention weights.
        causal: frame t sees frames up to t only.
    """

    capabilities = Capabilities(linear_time=False, positions="relative")

    def __init__(
        self, enc_dim: int, nhead: int, dropout: float = 0.0, causal: bool = False
    ) -> None:
        from speechbrain.nnet import attention  # slow to import: only for who asks for it

        super().__init__(enc_dim, causal)
        self.nhead = nhead
        self.attention = attention.RelPosMHAXL(enc_dim, nhead, dropout)
        self.positions = attention.RelPosEncXL(enc_dim)

    def mix(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunks: Chunks | None,
        pos_embs: Tensor | None = None,
    ) -> Tensor:
        """See ``Mixer.mix``."""
        if pos_embs is None:
            pos_embs = self.positions(x_BTD)
        padding_BT, hidden_BTT = dense_hidden_mask(x_BTD.shape[1], padding_BT, chunks, x_BTD.device)
        # SpeechBrain's softmax is float32 whatever the layer is: autocast brings it back.
        half = x_BTD.dtype in (torch.bfloat16, torch.float16)
        lower = torch.autocast(x_BTD.device.type, x_BTD.dtype) if half else nullcontext()
        with lower:
            return self.attention(
                x_BTD,
                x_BTD,
                x_BTD,
                pos_embs=pos_embs.to(x_BTD.dtype),
                key_padding_mask=padding_BT,
                attn_mask=_per_head(hidden_BTT, x_BTD.shape[0], self.nhead),
                return_attn_weights=False,
            )

    def project(self, x_BTD: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """See ``CachedAttention.project``."""
        return project_heads(x_BTD, self.attention.in_proj_weight, self.nhead)

    def read(
        self, query_BHTE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, seen_BTS: Tensor
    ) -> Tensor:
        """See ``CachedAttention.read``: scores are (q + u)ᵀk + (q + v)ᵀp at the distance of k."""
        layer, (heads, length, features) = self.attention, query_BHTE.shape[1:]
        by_content_HE1, by_place_HE1 = (
            bias.view(heads, 1, features) for bias in (layer.pos_bias_u, layer.pos_bias_v)
        )
        visible = key_BHSE.shape[2]
        # From the farthest past to the farthest future of a query; the last keys are the queries.
        place_PD = self.positions.make_pe(visible)[0, : visible + length - 1]
        place_HPE = layer.linear_pos(place_PD.to(query_BHTE.dtype)).view(-1, heads, features)
        scores_BHTP = (query_BHTE + by_place_HE1) @ place_HPE.permute(1, 2, 0)
        bias_BHTS = layer.scale * _aligned(scores_BHTP, visible)
        y_BHTE = F.scaled_dot_product_attention(
            query_BHTE + by_content_HE1,
            key_BHSE,
            value_BHSE,
            attn_mask=bias_BHTS.masked_fill(~seen_BTS[:, None], -torch.inf),
            scale=layer.scale,
        )
        return layer.out_proj(y_BHTE.transpose(1, 2).flatten(2))


class RegularMHA(CachedAttention):
    """SpeechBrain's ``MultiheadAttention`` (arXiv 1706.03762, §3.2), without the weights.

    Args:
        enc_dim: features D.
        nhead: heads.
        dropout: on the attention weights.
        causal: frame t sees frames up to t only.
    """

    capabilities = Capabilities(linear_time=False, positions="absolute")

    def __init__(
        self, enc_dim: int, nhead: int, dropout: float = 0.0, causal: bool = False
    ) -> None:
        from speechbrain.nnet import attention  # slow to import: only for who asks for it

        super().__init__(enc_dim, causal)
        self.nhead = nhead
        self.attention = attention.MultiheadAttention(nhead, enc_dim, dropout)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``."""
        padding_BT, hidden_BTT = dense_hidden_mask(x_BTD.shape[1], padding_BT, chunks, x_BTD.device)
        return self.attention(
            x_BTD,
            x_BTD,
            x_BTD,
            attn_mask=_per_head(hidden_BTT, x_BTD.shape[0], self.nhead),
            key_padding_mask=padding_BT,
            return_attn_weights=False,
        )

    def project(self, x_BTD: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """See ``CachedAttention.project``."""
        layer = self.attention.att
        qkv_BTHE = F.linear(x_BTD, layer.in_proj_weight, layer.in_proj_bias)
        qkv_BTHE = qkv_BTHE.unflatten(-1, (3 * self.nhead, -1))
        query_BHTE, key_BHTE, value_BHTE = qkv_BTHE.transpose(1, 2).chunk(3, dim=1)
        return query_BHTE, key_BHTE, value_BHTE

    def read(
        self, query_BHTE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, seen_BTS: Tensor
    ) -> Tensor:
        """See ``CachedAttention.read``."""
        y_BHTE = F.scaled_dot_product_attention(
            query_BHTE, key_BHSE, value_BHSE, attn_mask=seen_BTS[:, None]
        )
        return self.attention.att.out_proj(y_BHTE.transpose(1, 2).flatten(2))


def _per_head(hidden_BTT: Tensor | None, batch: int, nhead: int) -> Tensor | None:
    """Dense masks as SpeechBrain and PyTorch want them: (T, T), or (B·H, T, T)."""
    if hidden_BTT is None or hidden_BTT.shape[0] == 1:
        return None if hidden_BTT is None else hidden_BTT[0]
    return hidden_BTT.expand(batch, -1, -1).repeat_interleave(nhead, dim=0)


def _aligned(scores_BHTP: Tensor, visible: int) -> Tensor:
    """Scores by distance → scores by key, (B, H, T, S), as a view: row i begins at T − 1 − i."""
    length, distances = scores_BHTP.shape[2:]
    flat_BHX = scores_BHTP.flatten(2)[..., length - 1 :]
    return flat_BHX.unfold(-1, visible, max(1, distances - 1))


@register_mixer("RelPosMHAXL", RelPosMHAXL.capabilities, source="arXiv 1901.02860, §3.3")
def build_rel_pos_mha_xl(size: MixerSize, *, attention_dropout: float | None = None) -> RelPosMHAXL:
    """Builds relative-position attention; its dropout defaults to the host's."""
    dropout = size.dropout if attention_dropout is None else attention_dropout
    return RelPosMHAXL(size.d_model, size.nhead, dropout, size.causal)


@register_mixer("regularMHA", RegularMHA.capabilities, source="arXiv 1706.03762, §3.2")
def build_regular_mha(size: MixerSize, *, attention_dropout: float | None = None) -> RegularMHA:
    """Builds attention without positions of its own; its dropout defaults to the host's."""
    dropout = size.dropout if attention_dropout is None else attention_dropout
    return RegularMHA(size.d_model, size.nhead, dropout, size.causal)
