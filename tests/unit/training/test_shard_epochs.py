"""An epoch over shards: the same utterances for any number of ranks and workers, by windows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from summarymixing_modules.data.batching import make_batch_sampler, shard_numbers
from summarymixing_modules.data.manifest import DATA_ROOT, Row, read_manifest, write_manifest
from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.shards.members import Member
from summarymixing_modules.training.run import order
from summarymixing_modules.training.run.order import EpochOrder

SHARDS, COUNT = 12, 600


@pytest.fixture
def dataset(tmp_path: Path) -> ManifestDataset:
    """600 utterances, each of 50 in one of twelve shards, in another order than the manifest's."""
    draw = np.random.default_rng(0)
    rows = [
        Row(f"u{n}", float(seconds), str(Member(f"{DATA_ROOT}/{shard:06d}.tar", 0, 1, 0)), "", "")
        for n, (seconds, shard) in enumerate(
            zip(
                draw.uniform(1, 16, COUNT), draw.permutation(np.arange(COUNT) % SHARDS), strict=True
            )
        )
    ]
    write_manifest(tmp_path / "train.csv", rows)
    dataset = ManifestDataset(read_manifest(tmp_path / "train.csv"), tmp_path)
    dataset.set_output_keys(["id"])
    return dataset


def ids(examples: list[dict[str, str]]) -> list[str]:
    return [example["id"] for example in examples]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers(
    window: int | None, workers: int, dataset: ManifestDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = []
    for ranks in (1, 2, 3):
        monkeypatch.setattr(order, "world_size", lambda ranks=ranks: ranks)
        read: list[list[list[str]]] = []
        for rank in range(ranks):
            monkeypatch.setattr(order, "current_rank", lambda rank=rank: rank)
            sampler = make_batch_sampler(dataset, 100, 5, seed=3, shard_window=window)
            share = EpochOrder(sampler, dataset, None, lambda: 0)
            share.set_epoch(2)
            loader: DataLoader[Any] = DataLoader(
                dataset, batch_sampler=share, num_workers=workers, collate_fn=ids
            )
            read.append(list(loader))
        # A round of all ranks is a step: batches in the order in which one rank reads them.
        epochs.append([batch for step in zip(*read, strict=True) for batch in step])
    first = epochs[0]
    assert Counter(name for batch in first for name in batch) == Counter(dataset.data_ids)
    for ranks, epoch in enumerate(epochs, start=1):
        assert epoch[: len(first)] == first and len(epoch) - len(first) < ranks


def test_a_window_holds_what_it_reads(dataset: ManifestDataset) -> None:
    """Shards come in another order every epoch; few are read at a time, and batches are as full."""
    shard_N = shard_numbers(dataset)
    whole = make_batch_sampler(dataset, 100, 5)
    sampler = make_batch_sampler(dataset, 100, 5, shard_window=3)
    orders = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        batches = list(sampler._batches)
        whole.set_epoch(epoch)
        assert sorted(map(len, batches)) == sorted(map(len, whole._batches))
        window_N = sampler._windows_N
        last = [max(window_N[batch]) for batch in batches]
        assert last == sorted(last) and {*last} == {0, 1, 2, 3}
        # What a window has left over is read in the next one.
        early = [np.mean(window_N[batch] < max(window_N[batch])) for batch in batches]
        assert np.mean(early) < 0.25
        assert len({*shard_N[window_N == 0]}) == 3
        orders.append(list(dict.fromkeys(shard_N[np.argsort(window_N, kind="stable")])))
        lengths = [round(float(np.mean(dataset.durations[batch]))) for batch in batches]
        assert lengths != sorted(lengths)
    assert orders[0] != orders[1]


def test_windows_are_of_shards(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.csv", [Row("a", 1.0, f"{DATA_ROOT}/a.flac", "", "")])
    files = ManifestDataset(read_manifest(tmp_path / "a.csv"), tmp_path)
    with pytest.raises(ValueError, match="--shard_window is for --shards"):
        make_batch_sampler(files, 10, shard_window=1)
