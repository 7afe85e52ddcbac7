"""Who sees whom under dynamic chunk training: layouts, sliding sums and the dense reference.

Frame ``t`` of chunk ``c`` sees its whole chunk and ``left_context_size`` chunks to its left
(``None``: all the past), as in SpeechBrain's ``DynChunkTrainConfig`` and arXiv 2409.07165, §3.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def check_chunks(chunk_size: int | None, left_context_size: int | None) -> None:
    """Refuses chunk settings that mean nothing.

    Raises:
        ValueError: naming the argument and its allowed values.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size counts frames and must be at least 1, not {chunk_size}.")
    if left_context_size is None:
        return
    if chunk_size is None:
        raise ValueError(
            f"left_context_size={left_context_size} counts chunks and needs a chunk_size; "
            "leave it None for full context."
        )
    if left_context_size < 0:
        raise ValueError(
            f"left_context_size counts chunks and must be at least 0 (None: all the past), "
            f"not {left_context_size}."
        )


def pad_to_chunks(
    x_BTD: Tensor, padding_BT: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor | None]:
    """Appends padded frames until T is a multiple of ``chunk_size``.

    Args:
        x_BTD: features.
        padding_BT: True = padded; None = no frame is.
        chunk_size: frames of a chunk.

    Returns:
        features and mask of C·K frames; the mask stays None when nothing is padded.
    """
    missing = -x_BTD.shape[1] % chunk_size
    if missing == 0:
        return x_BTD, padding_BT
    if padding_BT is None:
        padding_BT = x_BTD.new_zeros(x_BTD.shape[:2], dtype=torch.bool)
    return F.pad(x_BTD, (0, 0, 0, missing)), F.pad(padding_BT, (0, missing), value=True)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over time are held: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def sliding_sum(x_BCD: Tensor, left_context_size: int | None) -> Tensor:
    """Sum over each chunk and ``left_context_size`` chunks to its left, in O(C).

    With limited context, windows of w = left + 1 chunks are covered by the suffix sum of one block
    of w chunks and the prefix sum of the next: nothing is ever subtracted, so a window keeps its
    precision however long the utterance is (a difference of prefix sums loses a factor C / w).

    Args:
        x_BCD: one vector per chunk, in the dtype to accumulate in.
        left_context_size: chunks to the left; None = all of them.

    Returns:
        sums_BCD: entry c holds x[c - left] + … + x[c].
    """
    num_chunks = x_BCD.shape[1]
    if left_context_size is None or left_context_size >= num_chunks - 1:
        return x_BCD.cumsum(dim=1)
    if left_context_size == 0:
        return x_BCD
    window = left_context_size + 1
    blocks = math.ceil(num_chunks / window)
    padded_BCD = F.pad(x_BCD, (0, 0, 0, blocks * window - num_chunks))
    blocks_BNWD = padded_BCD.unflatten(1, (blocks, window))
    prefix_BNWD = blocks_BNWD.cumsum(dim=2)
    suffix_BNWD = blocks_BNWD.flip(2).cumsum(dim=2).flip(2)
    # Position r of a block still sees positions r + 1 … w - 1 of the block before it.
    before_BNWD = F.pad(suffix_BNWD[:, :-1, 1:], (0, 0, 0, 1, 1, 0))
    return (prefix_BNWD + before_BNWD).flatten(1, 2)[:, :num_chunks]


def visible_TT(
    length: int,
    chunk_size: int | None,
    left_context_size: int | None,
    device: torch.device | None = None,
) -> Tensor:
    """The dense reference: entry (t, i) is True when frame t sees frame i. Quadratic."""
    if chunk_size is None:
        return torch.ones(length, length, dtype=torch.bool, device=device)
    chunk_T = torch.arange(length, device=device) // chunk_size
    behind_TT = chunk_T[:, None] - chunk_T[None, :]
    seen_TT = behind_TT >= 0
    if left_context_size is not None:
        seen_TT &= behind_TT <= left_context_size
    return seen_TT
