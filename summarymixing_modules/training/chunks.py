"""Chunk settings for dynamic chunk training, as a recipe asks for them."""

from __future__ import annotations

from collections.abc import Callable

from speechbrain import Stage
from speechbrain.utils.dynamic_chunk_training import (
    DynChunkTrainConfig,
    DynChunkTrainConfigRandomSampler,
)


def make_chunk_sampler(
    enabled: bool,
    chunkwise_prob: float,
    chunk_size_min: int,
    chunk_size_max: int,
    limited_left_context_prob: float,
    left_context_chunks_min: int,
    left_context_chunks_max: int,
) -> Callable[[Stage], DynChunkTrainConfig | None]:
    """SpeechBrain's sampler of chunk settings for a batch, of which None is full context.

    Args:
        enabled: draw chunks at all; if not, all batches have full context.
        chunkwise_prob: share of batches that are cut into chunks.
        chunk_size_min, chunk_size_max: frames of a chunk.
        limited_left_context_prob: share of those whose left context is limited.
        left_context_chunks_min, left_context_chunks_max: chunks of left context.
    """
    if not enabled:
        return full_context
    return DynChunkTrainConfigRandomSampler(
        chunkwise_prob,
        chunk_size_min,
        chunk_size_max,
        limited_left_context_prob,
        left_context_chunks_min,
        left_context_chunks_max,
    )


def full_context(stage: Stage) -> None:
    """The setting of every batch: no chunks."""
    del stage
