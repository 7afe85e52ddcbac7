"""Softmax attention over a sliding window, in time and memory that grow with T · window.

Queries are cut into blocks; the keys that a block can see overlap with those of its neighbours and
are copied, so that all blocks of all utterances are one fused call.

Shape suffixes: B batch, H heads, T frames, N blocks, Q queries of a block, S keys of a block,
E features of a head, G keys that every frame sees, R = B·N.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import Chunks

MIN_BLOCK = 64
Shared = tuple[Tensor, Tensor]


def window_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    window: int,
    chunks: Chunks | None,
    scale: float,
    dropout: float = 0.0,
    shared: Shared | None = None,
) -> Tensor:
    """Attention of each frame over the frames at a distance of at most ``window``.

    Args:
        query_BHTE: queries.
        key_BHTE: keys.
        value_BHTE: values.
        padding_BT: True = padded; None = no frame is.
        window: frames to each side.
        chunks: they hide what the window would show; None = full context.
        scale: factor of the scores.
        dropout: probability on the attention weights.
        shared: keys and values (B, H, G, E) that every frame sees too.

    Returns:
        y_BHTE; finite also at padded frames.
    """
    batch, _, length, _ = query_BHTE.shape
    left = min(window, length - 1)
    right = left if chunks is None else min(left, chunks.size - 1)
    block = min(max(window, MIN_BLOCK), length)
    tail = -length % block
    query_RHQE = _blocks(F.pad(query_BHTE, (0, 0, 0, tail)), block, block)
    reach = (0, 0, left, tail + right)
    key_RHSE = _blocks(F.pad(key_BHTE, reach), block, left + block + right)
    value_RHSE = _blocks(F.pad(value_BHTE, reach), block, left + block + right)
    seen_BNQS = _visible(length, block, left, right, padding_BT, chunks, query_BHTE.device)
    seen_R1QS = seen_BNQS.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    if shared is not None:
        blocks = seen_BNQS.shape[1]
        key_RHSE = torch.cat([key_RHSE, shared[0].repeat_interleave(blocks, dim=0)], dim=2)
        value_RHSE = torch.cat([value_RHSE, shared[1].repeat_interleave(blocks, dim=0)], dim=2)
        seen_R1QS = F.pad(seen_R1QS, (0, shared[0].shape[2]), value=True)
    y_RHQE = F.scaled_dot_product_attention(
        query_RHQE, key_RHSE, value_RHSE, attn_mask=seen_R1QS, dropout_p=dropout, scale=scale
    )
    return y_RHQE.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def _blocks(x_BHTE: Tensor, step: int, size: int) -> Tensor:
    """Stretches of ``size`` frames, one every ``step`` frames, as (R, H, size, E)."""
    return x_BHTE.unfold(2, size, step).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _visible(
    length: int,
    block: int,
    left: int,
    right: int,
    padding_BT: Tensor | None,
    chunks: Chunks | None,
    device: torch.device,
) -> Tensor:
    """Which keys each block's queries see, as (1 or B, N, Q, S) booleans.

    Every frame sees itself, padded ones too, so that no row of scores is empty.
    """
    start_N = torch.arange(0, length, block, device=device)
    query_Q = torch.arange(block, device=device)
    key_S = torch.arange(-left, block + right, device=device)
    apart_QS = key_S - query_Q[:, None]
    near_QS = (apart_QS >= -left) & (apart_QS <= right)
    query_NQ1, key_N1S = start_N[:, None, None] + query_Q[:, None], start_N[:, None, None] + key_S
    seen_BNQS = (near_QS & (key_N1S >= 0) & (key_N1S < length))[None]
    if chunks is not None:
        behind_NQS = query_NQ1 // chunks.size - key_N1S // chunks.size
        seen_BNQS = seen_BNQS & (behind_NQS >= 0)
        if chunks.left is not None:
            seen_BNQS = seen_BNQS & (behind_NQS <= chunks.left)
    if padding_BT is not None:
        reach = (left, -length % block + right)
        hidden_BNS = F.pad(padding_BT, reach, value=True).unfold(1, key_S.shape[0], block)
        seen_BNQS = seen_BNQS & ~hidden_BNS[:, :, None]
    return seen_BNQS | (apart_QS == 0)
