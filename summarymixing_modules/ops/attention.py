"""Fused softmax attention under padding and chunks, without a T×T mask.

Shape suffixes: B batch, H heads, T query frames, S key frames, E features of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import visible_TT

QUERY_BLOCK = 256


def attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    chunk_size: int | None,
    left_context_size: int | None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention of each frame over the frames that it may see.

    Full context is one fused call with a (B, 1, 1, T) mask. Under chunks, whole chunks are
    grouped into blocks of at least ``QUERY_BLOCK`` queries, and each block is one fused call over
    just the keys that it can see: memory grows with T, and with limited left context so does time.

    Args:
        query_BHTE: queries.
        key_BHTE: keys.
        value_BHTE: values.
        padding_BT: True = padded; None = no frame is.
        chunk_size: frames of a chunk; None = full context.
        left_context_size: chunks to the left; None = all of them.
        scale: factor of the scores.
        dropout: probability on the attention weights; above 0, PyTorch leaves its fastest kernels.

    Returns:
        y_BHTE; finite also at padded frames.
    """
    if chunk_size is None:
        hidden = _open_when_all_padded(padding_BT)
        visible = None if hidden is None else ~hidden[:, None, None, :]
        return _fused(query_BHTE, key_BHTE, value_BHTE, visible, scale, dropout)
    length = query_BHTE.shape[2]
    if chunk_size == 1 and left_context_size is None and padding_BT is None:
        return F.scaled_dot_product_attention(
            query_BHTE, key_BHTE, value_BHTE, dropout_p=dropout, is_causal=True, scale=scale
        )
    block = math.ceil(QUERY_BLOCK / chunk_size) * chunk_size
    outputs = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = 0
        if left_context_size is not None:
            first = max(0, start - left_context_size * chunk_size)
        visible = block_visibility(
            start, stop, first, chunk_size, left_context_size, padding_BT, query_BHTE.device
        )
        keys, values = key_BHTE[:, :, first:stop], value_BHTE[:, :, first:stop]
        outputs.append(_fused(query_BHTE[:, :, start:stop], keys, values, visible, scale, dropout))
    return torch.cat(outputs, dim=2)


def block_visibility(
    start: int,
    stop: int,
    first: int,
    chunk_size: int,
    left_context_size: int | None,
    padding_BT: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Which keys ``first … stop`` the queries ``start … stop`` see, as (1 or B, 1, T, S) booleans.

    Every frame sees itself, padded ones too, so that no row of scores is empty.
    """
    query_T = torch.arange(start, stop, device=device)
    key_S = torch.arange(first, stop, device=device)
    behind_TS = query_T[:, None] // chunk_size - key_S[None, :] // chunk_size
    seen_TS = behind_TS >= 0
    if left_context_size is not None:
        seen_TS &= behind_TS <= left_context_size
    if padding_BT is None:
        return seen_TS[None, None]
    seen_BTS = seen_TS & ~padding_BT[:, None, first:stop]
    return (seen_BTS | (query_T[:, None] == key_S[None, :]))[:, None]


def _fused(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scale: float, dropout: float
) -> Tensor:
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, dropout_p=dropout, scale=scale
    )


def _open_when_all_padded(padding_BT: Tensor | None) -> Tensor | None:
    """Unmasks utterances without a real frame: a softmax over nothing is NaN."""
    if padding_BT is None:
        return None
    return padding_BT & ~padding_BT.all(dim=1, keepdim=True)


def dense_hidden_mask(
    length: int,
    padding_BT: Tensor | None,
    chunk_size: int | None,
    left_context_size: int | None,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None]:
    """Masks for attention layers that only take dense ones (True = hidden).

    Returns:
        key padding (B, T) for full context; else a (B or 1, T, T) mask that holds the padding too,
        and in which every frame sees itself. The other one is None.
    """
    if chunk_size is None:
        return _open_when_all_padded(padding_BT), None
    hidden_BTT = ~visible_TT(length, chunk_size, left_context_size, device)[None]
    if padding_BT is not None:
        hidden_BTT = hidden_BTT | padding_BT[:, None, :]
    return None, hidden_BTT & ~torch.eye(length, dtype=torch.bool, device=device)


def naive_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    chunk_size: int | None,
    left_context_size: int | None,
    scale: float,
) -> Tensor:
    """Reference of ``attend``: the whole matrix of scores, masked and normalised by hand."""
    length = query_BHTE.shape[2]
    seen_BTT = visible_TT(length, chunk_size, left_context_size, query_BHTE.device)[None]
    if padding_BT is not None:
        seen_BTT = seen_BTT & ~padding_BT[:, None, :]
    scores_BHTT = scale * query_BHTE @ key_BHTE.mT
    scores_BHTT = scores_BHTT.masked_fill(~seen_BTT[:, None], -torch.inf)
    weights_BHTT = scores_BHTT.softmax(dim=-1).nan_to_num(0.0)
    return weights_BHTT @ value_BHTE
