"""The summary of SummaryMixing: a mean over the frames that each frame may see, in linear time.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D features.
"""

from __future__ import annotations

from torch import Tensor

from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype, sliding_sum


def masked(x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Sets padded frames to zero."""
    return x_BTD if padding_BT is None else x_BTD.masked_fill(padding_BT[..., None], 0.0)


def chunk_sums(s_BTD: Tensor, padding_BT: Tensor | None, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Sum and number of the real frames of each chunk.

    Args:
        s_BTD: T must be a multiple of ``chunk_size`` (see ``pad_to_chunks``).
        padding_BT: True = padded.
        chunk_size: frames of a chunk.

    Returns:
        sums_BCD and counts_BC, both at least float32.
    """
    dtype = accumulation_dtype(s_BTD.dtype)
    sums_BCD = masked(s_BTD, padding_BT).unflatten(1, (-1, chunk_size)).sum(dim=2, dtype=dtype)
    return sums_BCD, chunk_counts(sums_BCD, padding_BT, chunk_size)


def chunk_counts(sums_BCD: Tensor, padding_BT: Tensor | None, chunk_size: int) -> Tensor:
    """Number of the real frames of each chunk, counts_BC, as numbers like the sums'."""
    if padding_BT is None:
        return sums_BCD.new_full(sums_BCD.shape[:2], chunk_size)
    return (~padding_BT).unflatten(1, (-1, chunk_size)).sum(dim=2, dtype=sums_BCD.dtype)


def chunk_means(s_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks) -> Tensor:
    """s̄ of every chunk (arXiv 2409.07165, §3): the mean over the chunk and its left context.

    The offline mean of arXiv 2307.07421, eq. (1), is the case of one chunk that spans T.

    Args:
        s_BTD: summary vectors; T must be a multiple of the chunk size.
        padding_BT: True = padded, left out of sums and counts.
        chunks: that of T frames is full context.

    Returns:
        mean_BCD, in the dtype of ``s_BTD``; zero where a chunk sees no real frame.
    """
    sums_BCD, counts_BC = chunk_sums(s_BTD, padding_BT, chunks.size)
    return means_of_sums(sums_BCD, counts_BC, chunks.left).to(s_BTD.dtype)


def means_of_sums(sums_BCD: Tensor, counts_BC: Tensor, left: int | None) -> Tensor:
    """mean_BCD over each chunk and ``left`` chunks before it (None: all); zero without frames."""
    counts_BC1 = sliding_sum(counts_BC[..., None], left)
    return sliding_sum(sums_BCD, left) / counts_BC1.clamp(min=1.0)


def utterance_mean(x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Mean of the real frames, mean_BD; zero where there is none."""
    return chunk_means(x_BTD, padding_BT, Chunks(x_BTD.shape[1])).squeeze(1)
