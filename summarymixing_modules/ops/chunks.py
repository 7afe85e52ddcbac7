"""Who sees whom under dynamic chunk training: layouts, sliding sums and the dense reference.

Frame ``t`` of chunk ``c`` sees its whole chunk and ``left_context_size`` chunks to its left
(``None``: all the past), as in SpeechBrain's ``DynChunkTrainConfig`` and arXiv 2409.07165, §3.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.errors import InputError


@dataclass(frozen=True)
class Chunks:
    """How utterances are cut. Full context has no ``Chunks``; it is None.

    Attributes:
        size: frames of a chunk.
        left: chunks visible before one's own; None = all of them.

    Raises:
        InputError: a size below 1, or a negative left context.
    """

    size: int
    left: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"chunk_size counts frames and must be at least 1, not {self.size}.")
        if self.left is not None and self.left < 0:
            raise InputError(
                "left_context_size counts chunks and must be at least 0 (None: all the past), "
                f"not {self.left}."
            )

    @staticmethod
    def of(chunk_size: int | None, left_context_size: int | None) -> Chunks | None:
        """The chunks that two arguments ask for; None = full context.

        Raises:
            InputError: numbers that mean nothing, or a left context without chunks.
        """
        if chunk_size is not None:
            return Chunks(chunk_size, left_context_size)
        if left_context_size is not None:
            raise InputError(
                f"left_context_size={left_context_size} counts chunks and needs a chunk_size; "
                "leave it None for full context."
            )
        return None

    @staticmethod
    def sizes(chunks: Chunks | None) -> tuple[int | None, int | None]:
        """The two arguments that ask for chunks; ``of`` undone."""
        return (None, None) if chunks is None else (chunks.size, chunks.left)

    @staticmethod
    def spanning(chunks: Chunks | None, length: int) -> Chunks:
        """Chunks of at most ``length`` frames: full context is one that spans the utterance."""
        return Chunks(length) if chunks is None else replace(chunks, size=min(chunks.size, length))


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


def sliding_sum(x_BCD: Tensor, left: int | None) -> Tensor:
    """Sum over each chunk and ``left`` chunks before it, in O(C).

    With limited context, windows of w = left + 1 chunks are covered by the suffix sum of one block
    of w chunks and the prefix sum of the next: nothing is ever subtracted, so a window keeps its
    precision however long the utterance is (a difference of prefix sums loses a factor C / w).

    Args:
        x_BCD: one vector per chunk, in the dtype to accumulate in.
        left: chunks; None = all of them.

    Returns:
        sums_BCD: entry c holds x[c - left] + … + x[c].
    """
    num_chunks = x_BCD.shape[1]
    if left is None or left >= num_chunks - 1:
        return x_BCD.cumsum(dim=1)
    if left == 0:
        return x_BCD
    window = left + 1
    blocks = math.ceil(num_chunks / window)
    padded_BCD = F.pad(x_BCD, (0, 0, 0, blocks * window - num_chunks))
    blocks_BNWD = padded_BCD.unflatten(1, (blocks, window))
    prefix_BNWD = blocks_BNWD.cumsum(dim=2)
    suffix_BNWD = blocks_BNWD.flip(2).cumsum(dim=2).flip(2)
    # Position r of a block still sees positions r + 1 … w - 1 of the block before it.
    before_BNWD = F.pad(suffix_BNWD[:, :-1, 1:], (0, 0, 0, 1, 1, 0))
    return (prefix_BNWD + before_BNWD).flatten(1, 2)[:, :num_chunks]


def visible_TT(length: int, chunks: Chunks | None, device: torch.device | None = None) -> Tensor:
    """The dense reference: entry (t, i) is True when frame t sees frame i. Quadratic."""
    if chunks is None:
        return torch.ones(length, length, dtype=torch.bool, device=device)
    chunk_T = torch.arange(length, device=device) // chunks.size
    behind_TT = chunk_T[:, None] - chunk_T[None, :]
    seen_TT = behind_TT >= 0
    if chunks.left is not None:
        seen_TT &= behind_TT <= chunks.left
    return seen_TT
