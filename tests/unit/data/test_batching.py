"""Batches by seconds of audio."""

from __future__ import annotations

import numpy as np
import pytest
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from summarymixing_modules.data.batching import make_batch_sampler


@pytest.fixture
def dataset() -> DynamicItemDataset:
    rng = np.random.default_rng(0)
    return DynamicItemDataset({f"u{i}": {"duration": rng.uniform(1, 16)} for i in range(400)})


def padded_seconds(dataset: DynamicItemDataset, batch: list[int]) -> float:
    return max(dataset.data[dataset.data_ids[i]]["duration"] for i in batch) * len(batch)


@pytest.mark.parametrize("bucketing", ["quantiles", "lognormal"])
@pytest.mark.parametrize("num_buckets", [1, 7, 40])
def test_every_utterance_once_and_no_batch_too_long(
    dataset: DynamicItemDataset, bucketing: str, num_buckets: int
) -> None:
    sampler = make_batch_sampler(dataset, 60, num_buckets, bucketing=bucketing)  # type: ignore[arg-type]
    batches = list(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(400))
    assert max(padded_seconds(dataset, batch) for batch in batches) <= 60 + 1e-6


@pytest.mark.parametrize("ordering", ["random", "ascending", "descending"])
def test_the_batches_are_speechbrains(dataset: DynamicItemDataset, ordering: str) -> None:
    shuffle = ordering == "random"
    ours = make_batch_sampler(dataset, 60, 7, 9, "lognormal", shuffle, ordering, seed=3)  # type: ignore[arg-type]
    theirs = DynamicBatchSampler(
        dataset, 60, 7, shuffle=shuffle, batch_ordering=ordering, max_batch_ex=9, seed=3
    )
    for epoch in range(3):
        assert list(ours) == list(theirs)
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
    assert ours.get_durations([3, 1]) == theirs.get_durations([3, 1])


def test_quantiles_fill_batches(dataset: DynamicItemDataset) -> None:
    batches = list(make_batch_sampler(dataset, 60, 20))
    audio = sum(item["duration"] for item in dataset.data.values())
    padded = sum(padded_seconds(dataset, batch) for batch in batches)
    assert audio / padded > 0.9
    assert padded / len(batches) > 40


def test_equal_durations_make_one_bucket() -> None:
    same = DynamicItemDataset({f"u{i}": {"duration": 2.0} for i in range(10)})
    assert sorted(len(batch) for batch in make_batch_sampler(same, 8, 20)) == [2, 4, 4]


def test_at_most_so_many_examples(dataset: DynamicItemDataset) -> None:
    sampler = make_batch_sampler(dataset, 600, max_batch_ex=5)
    assert max(len(batch) for batch in sampler) == 5


def test_shuffling_depends_on_seed_and_epoch(dataset: DynamicItemDataset) -> None:
    sampler = make_batch_sampler(dataset, 60, seed=1)
    first = list(sampler)
    assert first == list(make_batch_sampler(dataset, 60, seed=1))
    assert first != list(make_batch_sampler(dataset, 60, seed=2))
    sampler.set_epoch(1)
    assert first != list(sampler)


def test_batches_by_length(dataset: DynamicItemDataset) -> None:
    for ordering, sign in (("ascending", 1), ("descending", -1)):
        sampler = make_batch_sampler(dataset, 60, shuffle=False, batch_ordering=ordering)  # type: ignore[arg-type]
        longest = [sign * padded_seconds(dataset, batch) / len(batch) for batch in sampler]
        assert longest == sorted(longest)


def test_utterances_longer_than_a_batch_are_announced(
    dataset: DynamicItemDataset, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = make_batch_sampler(dataset, 10)
    too_long = sum(item["duration"] > 10 for item in dataset.data.values())
    assert f"{too_long} of 400 utterances are longer than --max_batch_length 10 s" in caplog.text
    alone = [b for b in sampler if padded_seconds(dataset, b) > 10]
    assert len(alone) == too_long and all(len(batch) == 1 for batch in alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch_length": 0}, "--max_batch_length 0: use seconds"),
        ({"num_buckets": 0}, "--num_buckets 0: use at least 1"),
        ({"max_batch_ex": 0}, "--max_batch_ex 0: use at least 1"),
        ({"bucketing": "even"}, "--bucketing 'even': use quantiles, lognormal"),
        ({"batch_ordering": "up"}, "--batch_ordering 'up': use random, ascending, descending"),
    ],
)
def test_settings_that_make_no_batches(
    dataset: DynamicItemDataset, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_batch_sampler(dataset, **{"max_batch_length": 60, **arguments})  # type: ignore[arg-type]
