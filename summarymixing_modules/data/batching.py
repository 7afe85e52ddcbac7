"""Batches: sampled by seconds of audio, padded, without the utterances that could not be read."""

from __future__ import annotations

import logging
from typing import Any, Literal, get_args

import numpy as np
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

logger = logging.getLogger(__name__)

BatchOrdering = Literal["random", "ascending", "descending"]
Bucketing = Literal["quantiles", "lognormal"]


class EmptyBatch:
    """Stands for a batch of which no audio file could be read.

    Attributes:
        id: the utterances that it should have held.
        is_empty: always true.
    """

    is_empty = True

    def __init__(self, utterances: list[str]) -> None:
        self.id = utterances

    def __len__(self) -> int:
        return 0

    def to(self, *_args: Any, **_kwargs: Any) -> EmptyBatch:
        """As `PaddedBatch.to`; there is nothing to move."""
        return self

    def pin_memory(self) -> EmptyBatch:
        """As `PaddedBatch.pin_memory`; there is nothing to pin."""
        return self


def collate(examples: list[dict[str, Any]]) -> PaddedBatch | EmptyBatch:
    """Pad examples into a batch, without those whose audio could not be read (``sig`` is None).

    Give it to the DataLoader: ``collate_fn=collate``.

    Returns:
        A batch of the readable examples, or an `EmptyBatch` if there is none.
    """
    readable = [example for example in examples if example["sig"] is not None]
    if not readable:
        return EmptyBatch([example["id"] for example in examples])
    return PaddedBatch(readable)


def make_batch_sampler(
    dataset: DynamicItemDataset,
    max_batch_length: float,
    num_buckets: int = 20,
    max_batch_ex: int | None = None,
    bucketing: Bucketing = "quantiles",
    shuffle: bool = True,
    batch_ordering: BatchOrdering = "random",
    seed: int = 1234,
) -> DynamicBatchSampler:
    """Batches of about equal seconds of audio: SpeechBrain's `DynamicBatchSampler`, checked.

    Args:
        dataset: with the item ``duration``.
        max_batch_length: seconds of audio in a batch, padding included.
        num_buckets: groups of similar length; more waste less padding and mix less.
        max_batch_ex: utterances in a batch at most.
        bucketing: where the groups end. ``"quantiles"`` of the durations fill batches best;
            ``"lognormal"`` is SpeechBrain's default, the quantiles of a log-normal law scaled to
            ``max_batch_length``, for comparison with its recipes.
        shuffle: draw utterances in a new order every epoch.
        batch_ordering: of the batches, ``"random"`` or by length.
        seed: of the shuffling.

    Raises:
        ValueError: a setting makes no batches.
    """
    _check_settings(max_batch_length, num_buckets, max_batch_ex, bucketing, batch_ordering)
    durations = [float(dataset.data[name]["duration"]) for name in dataset.data_ids]
    too_long = sum(duration > max_batch_length for duration in durations)
    if too_long:
        logger.warning(
            "%d of %d utterances are longer than --max_batch_length %g s (the longest lasts %.1f s)"
            ": each makes a batch of its own. Set --avoid_if_longer_than if memory runs out",
            too_long,
            len(durations),
            max_batch_length,
            max(durations),
        )
    boundaries: list[float] = []
    if bucketing == "quantiles":
        shares = np.linspace(0.0, 1.0, num_buckets + 1)[1:]
        boundaries = sorted(set(np.quantile(durations, shares).tolist()))
    return DynamicBatchSampler(
        dataset,
        max_batch_length,
        num_buckets=num_buckets,
        bucket_boundaries=boundaries,
        lengths_list=durations,
        shuffle=shuffle,
        batch_ordering=batch_ordering,
        max_batch_ex=max_batch_ex,
        seed=seed,
    )


def _check_settings(
    max_batch_length: float,
    num_buckets: int,
    max_batch_ex: int | None,
    bucketing: str,
    batch_ordering: str,
) -> None:
    if max_batch_length <= 0:
        raise ValueError(f"--max_batch_length {max_batch_length}: use seconds of audio above 0")
    if num_buckets < 1:
        raise ValueError(f"--num_buckets {num_buckets}: use at least 1")
    if max_batch_ex is not None and max_batch_ex < 1:
        raise ValueError(f"--max_batch_ex {max_batch_ex}: use at least 1, or null for no limit")
    if bucketing not in get_args(Bucketing):
        raise ValueError(f"--bucketing {bucketing!r}: use {', '.join(get_args(Bucketing))}")
    if batch_ordering not in get_args(BatchOrdering):
        raise ValueError(
            f"--batch_ordering {batch_ordering!r}: use {', '.join(get_args(BatchOrdering))}"
        )
