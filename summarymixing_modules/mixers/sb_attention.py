"""SpeechBrain's own attention layers behind the contract: RelPosMHAXL and regularMHA.

They are quadratic in time and memory and take dense masks, which are built here, out of sight of
the host. Streams keep the inputs of the visible past and compute them again with every chunk.

Shape suffixes: B batch, T frames, S visible frames, D model features.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from summarymixing_modules.mixers.attention_cache import AttentionCache
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.attention import dense_hidden_mask


class _SpeechBrainAttention(Mixer):
    """Masks and streaming, common to both."""

    nhead: int

    def mix(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int | None,
        left_context_size: int | None,
        pos_embs: Tensor | None = None,
    ) -> Tensor:
        """See ``Mixer.forward``."""
        key_padding_BT, hidden_BTT = dense_hidden_mask(
            x_BTD.shape[1], padding_BT, chunk_size, left_context_size, x_BTD.device
        )
        return self._attend(x_BTD, key_padding_BT, hidden_BTT, pos_embs)

    def _attend(
        self,
        x_BTD: Tensor,
        key_padding_BT: Tensor | None,
        hidden_BTT: Tensor | None,
        pos_embs: Tensor | None,
    ) -> Tensor:
        raise NotImplementedError

    def _per_head(self, hidden_BTT: Tensor | None, batch: int) -> Tensor | None:
        """Dense masks as SpeechBrain and PyTorch want them: (T, T), or (B·H, T, T)."""
        if hidden_BTT is None:
            return None
        if hidden_BTT.shape[0] == 1:
            return hidden_BTT[0]
        return hidden_BTT.expand(batch, -1, -1).repeat_interleave(self.nhead, dim=0)

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AttentionCache:
        """See ``Mixer.initial_state``: the inputs of the visible past."""
        anchor = self._anchor()
        shape = (batch_size, 0, self.enc_dim)
        return AttentionCache.empty(
            (shape,), left_context_size, device or anchor.device, dtype or anchor.dtype
        )

    def step(
        self, x_BTD: Tensor, state: AttentionCache, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, AttentionCache]:
        """See ``Mixer.step``."""
        self._check_input(x_BTD, key_padding_mask)
        state = state.extended((x_BTD,), key_padding_mask)
        (seen_BSD,) = state.frames
        hidden_BSS = state.hidden_BTS(seen_BSD.shape[1])
        y_BSD = self._attend(seen_BSD, None, hidden_BSS, None)
        return y_BSD[:, -x_BTD.shape[1] :], state.trimmed()


class RelPosMHAXL(_SpeechBrainAttention):
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

    def _attend(
        self,
        x_BTD: Tensor,
        key_padding_BT: Tensor | None,
        hidden_BTT: Tensor | None,
        pos_embs: Tensor | None,
    ) -> Tensor:
        if pos_embs is None:
            pos_embs = self.positions(x_BTD)
        # SpeechBrain's softmax is float32 whatever the layer is: autocast brings it back.
        half = x_BTD.dtype in (torch.bfloat16, torch.float16)
        lower = torch.autocast(x_BTD.device.type, x_BTD.dtype) if half else nullcontext()
        with lower:
            return self.attention(
                x_BTD,
                x_BTD,
                x_BTD,
                pos_embs=pos_embs.to(x_BTD.dtype),
                key_padding_mask=key_padding_BT,
                attn_mask=self._per_head(hidden_BTT, x_BTD.shape[0]),
                return_attn_weights=False,
            )


class RegularMHA(_SpeechBrainAttention):
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

    def _attend(
        self,
        x_BTD: Tensor,
        key_padding_BT: Tensor | None,
        hidden_BTT: Tensor | None,
        pos_embs: Tensor | None,
    ) -> Tensor:
        return self.attention(
            x_BTD,
            x_BTD,
            x_BTD,
            attn_mask=self._per_head(hidden_BTT, x_BTD.shape[0]),
            key_padding_mask=key_padding_BT,
            return_attn_weights=False,
        )


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
