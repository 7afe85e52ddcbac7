"""Batches: sampled by seconds of audio, padded, without the utterances that could not be read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.shards.members import Member, file_of

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
    shard_window: int | None = None,
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
        shard_window: of a dataset in shards, see `ArrayBatchSampler`.

    Raises:
        ValueError: a setting makes no batches.
    """
    _check_settings(max_batch_length, num_buckets, max_batch_ex, bucketing, batch_ordering)
    durations_N = _durations(dataset)
    too_long = int((durations_N > max_batch_length).sum())
    if too_long:
        logger.warning(
            "%d of %d utterances are longer than --max_batch_length %g s (the longest lasts %.1f s)"
            ": each makes a batch of its own. Set --avoid_if_longer_than if memory runs out",
            too_long,
            len(durations_N),
            max_batch_length,
            durations_N.max(),
        )
    boundaries: list[float] = []
    if bucketing == "quantiles":
        shares = np.linspace(0.0, 1.0, num_buckets + 1)[1:]
        boundaries = sorted(set(np.quantile(durations_N, shares).tolist()))
    return ArrayBatchSampler(
        durations_N,
        shards_N=None if shard_window is None else shard_numbers(dataset),
        window=shard_window or 1,
        dataset=dataset,
        max_batch_length=max_batch_length,
        num_buckets=num_buckets,
        bucket_boundaries=boundaries,
        shuffle=shuffle,
        batch_ordering=batch_ordering,
        max_batch_ex=max_batch_ex,
        seed=seed,
    )


def _durations(dataset: DynamicItemDataset) -> np.ndarray:
    if isinstance(dataset, ManifestDataset):
        return dataset.durations
    return np.array([float(dataset.data[name]["duration"]) for name in dataset.data_ids])


class ArrayBatchSampler(DynamicBatchSampler):
    """SpeechBrain's sampler with its lengths in an array and without its loop over utterances.

    The batches are the same, in the same order. A million utterances take half a second instead of
    five, at the start and after every epoch.

    With shards, an epoch draws an order of them, and goes through windows of so many: utterances,
    and batches, are shuffled within a window. What a window leaves of a bucket is filled up with
    utterances of the next ones, so batches are as full as without windows.

    Args:
        lengths_N: of the utterances.
        shards_N: the number of the shard that each lies in; None: it does not matter.
        window: shards in a window.
        **settings: of SpeechBrain's.
    """

    def __init__(
        self,
        lengths_N: np.ndarray,
        shards_N: np.ndarray | None = None,
        window: int = 1,
        **settings: Any,
    ) -> None:
        self.lengths_N, self.shards_N, self.window = lengths_N, shards_N, window
        super().__init__(lengths_list=[], **settings)

    def get_durations(self, batch: Sequence[int]) -> list[float]:
        """The lengths of a batch's utterances."""
        return self.lengths_N[batch].tolist()

    def _generate_batches(self) -> None:
        order_N = np.arange(len(self.lengths_N))
        generator = torch.Generator()
        generator.manual_seed(self._seed + self._epoch)
        if self._shuffle_ex:
            order_N = torch.randperm(len(order_N), generator=generator).numpy()
        if self.shards_N is not None:
            ranks = torch.randperm(int(self.shards_N.max()) + 1, generator=generator).numpy()
            self._windows_N = ranks[self.shards_N] // self.window
            order_N = order_N[np.argsort(self._windows_N[order_N], kind="stable")]
        bucket_N = np.searchsorted(self._bucket_boundaries, self.lengths_N[order_N])
        full: list[tuple[int, list[int]]] = []
        rest: list[list[int]] = []
        for bucket, size in enumerate(self._bucket_lens):
            places = np.flatnonzero(bucket_N == bucket)
            ends = range(size, len(places) + 1, size)
            full += [(places[end - 1], order_N[places[end - size : end]].tolist()) for end in ends]
            rest.append(order_N[places[len(places) - len(places) % size :]].tolist())
        full.sort(key=lambda batch: batch[0])  # the order in which they are filled
        self._batches = [batch for _, batch in full]
        if not self._drop_last:
            self._batches += filter(None, rest)
        self._permute_batches()

    def _permute_batches(self) -> None:
        if self._batch_ordering == "random":
            super()._permute_batches()
            if self.shards_N is not None:  # a batch is complete in the window of its last utterance
                self._batches.sort(key=lambda batch: self._windows_N[batch].max())
        else:
            descending = self._batch_ordering == "descending"
            self._batches.sort(key=lambda batch: self.lengths_N[batch].max(), reverse=descending)


def shard_numbers(dataset: DynamicItemDataset) -> np.ndarray:
    """The shard of each utterance of a dataset (N,), from 0.

    Raises:
        ValueError: the dataset is not in shards.
    """
    numbers: dict[str, int] = {}
    if not isinstance(dataset, ManifestDataset) or Member.of(dataset.manifest[0].wav) is None:
        raise ValueError("--shard_window is for --shards: leave it out, or give them")
    found = [numbers.setdefault(file_of(row.wav), len(numbers)) for row in dataset.manifest]
    return np.array(found)[dataset.places]


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
