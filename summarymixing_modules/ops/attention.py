"""Fused softmax attention under padding and chunks, without a T×T mask.

Shape suffixes: B batch, H heads, T query frames, S key frames, E features of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.attention_blocks import attend_in_blocks
from summarymixing_modules.ops.chunks import Chunks, visible_TT


def attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    chunks: Chunks | None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention of each frame over the frames that it may see.

    Full context is one fused call with a (B, 1, 1, T) mask. Chunks are computed in blocks of
    queries, each over just the keys that it can see (ops/attention_blocks.py): memory grows with T,
    and with limited left context so does time.

    Args:
        query_BHTE: queries.
        key_BHTE: keys.
        value_BHTE: values.
        padding_BT: True = padded; None = no frame is.
        chunks: None = full context.
        scale: factor of the scores.
        dropout: probability on the attention weights; above 0, PyTorch leaves its fastest kernels.

    Returns:
        y_BHTE; finite also at padded frames.
    """
    if chunks is None:
        hidden = _open_when_all_padded(padding_BT)
        visible = None if hidden is None else ~hidden[:, None, None, :]
        return F.scaled_dot_product_attention(
            query_BHTE, key_BHTE, value_BHTE, attn_mask=visible, dropout_p=dropout, scale=scale
        )
    if chunks == Chunks(1) and padding_BT is None:
        return F.scaled_dot_product_attention(
            query_BHTE, key_BHTE, value_BHTE, dropout_p=dropout, is_causal=True, scale=scale
        )
    return attend_in_blocks(query_BHTE, key_BHTE, value_BHTE, padding_BT, chunks, scale, dropout)


def _open_when_all_padded(padding_BT: Tensor | None) -> Tensor | None:
    """Unmasks utterances without a real frame: a softmax over nothing is NaN."""
    if padding_BT is None:
        return None
    return padding_BT & ~padding_BT.all(dim=1, keepdim=True)


def dense_hidden_mask(
    length: int, padding_BT: Tensor | None, chunks: Chunks | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Masks for attention layers that only take dense ones (True = hidden).

    Returns:
        key padding (B, T) for full context; else a (B or 1, T, T) mask that holds the padding too,
        and in which every frame sees itself. The other one is None.
    """
    if chunks is None:
        return _open_when_all_padded(padding_BT), None
    hidden_BTT = ~visible_TT(length, chunks, device)[None]
    if padding_BT is not None:
        hidden_BTT = hidden_BTT | padding_BT[:, None, :]
    return None, hidden_BTT & ~torch.eye(length, dtype=torch.bool, device=device)
