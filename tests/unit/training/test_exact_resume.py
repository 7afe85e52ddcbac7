"""RandomState and EpochSeeder: the pieces of a resume that is exact to the last bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from speechbrain.dataio.dataloader import LoopedLoader, SaveableDataLoader
from speechbrain.dataio.sampler import DynamicBatchSampler, ReproducibleRandomSampler
from torch.utils.data import DataLoader, RandomSampler

from summarymixing_modules.training import resume
from summarymixing_modules.training.resume import EpochSeeder, RandomState


def draw() -> list[float]:
    """A number from each generator, one of them half of a pair (the other half is kept)."""
    python = [random.random(), random.gauss(0, 1)]
    return [*python, float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


def test_generators_come_back(tmp_path: Path) -> None:
    draw()
    RandomState().save(tmp_path / "random_state.ckpt")
    expected = [draw(), draw()]
    state = RandomState()
    state.load(tmp_path / "random_state.ckpt", end_of_epoch=False)
    assert draw() != expected[0], "loading alone restores nothing"
    state.restore_before_first_batch()
    assert [draw(), draw()] == expected
    state.restore_before_first_batch()
    assert draw() not in expected, "it is restored once"


@pytest.mark.parametrize("end_of_epoch", [True, False])
def test_when_it_is_restored(tmp_path: Path, end_of_epoch: bool) -> None:
    """A hook of the epoch that draws has drawn already if the checkpoint lies in the middle."""
    RandomState().save(tmp_path / "random_state.ckpt")
    at_checkpoint = draw()
    state = RandomState()
    state.load(tmp_path / "random_state.ckpt", end_of_epoch)
    state.restore_before_epoch()
    assert draw() == at_checkpoint
    state.restore_before_first_batch()
    assert (draw() == at_checkpoint) is not end_of_epoch


def test_a_file_per_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "random_state.ckpt"
    for rank in (0, 1):
        monkeypatch.setattr(resume, "current_rank", lambda rank=rank: rank)
        torch.manual_seed(rank)
        RandomState().save(path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "random_state-rank1.ckpt",
        "random_state.ckpt",
    ]
    for rank in (0, 1):
        monkeypatch.setattr(resume, "current_rank", lambda rank=rank: rank)
        state = RandomState()
        state.load(path, end_of_epoch=True)
        state.restore_before_epoch()
        assert torch.initial_seed() == rank
    monkeypatch.setattr(resume, "current_rank", lambda: 2)
    state = RandomState()
    state.load(path, end_of_epoch=True)
    assert "made with fewer processes" in caplog.text
    before = torch.get_rng_state()
    state.restore_before_epoch()
    assert torch.equal(torch.get_rng_state(), before)


def make_loader(order: str) -> DataLoader:
    """A loader of 12 numbers in batches of 2 or so."""
    numbers = torch.arange(12)
    if order == "torch's own shuffle":
        return SaveableDataLoader(numbers, batch_size=2, shuffle=True)
    if order == "reproducible":
        return SaveableDataLoader(
            numbers, batch_size=2, sampler=ReproducibleRandomSampler(numbers, seed=3)
        )
    lengths = [1 + i % 4 for i in range(12)]
    batches = DynamicBatchSampler(numbers, 8, 2, lengths_list=lengths, shuffle=True)
    return SaveableDataLoader(numbers, batch_sampler=batches)


def seeder(loader: Any, calls: list[int] | None = None) -> EpochSeeder:
    """An EpochSeeder that only notes the epochs."""
    on_epoch = (lambda epoch: None) if calls is None else calls.append
    return EpochSeeder(loader, 5, RandomState(), on_epoch)


@pytest.mark.parametrize("order", ["torch's own shuffle", "reproducible", "dynamic"])
def test_an_epoch_depends_on_its_number_only(order: str) -> None:
    """Not on the epochs before it, nor on the global generator, which it leaves alone."""
    loader, calls = make_loader(order), list[int]()
    seeds = seeder(loader, calls)
    epochs = []
    for epoch in (1, 2, 3):
        seeds.set_epoch(epoch)
        before = torch.get_rng_state()
        epochs.append([batch.tolist() for batch in loader])
        assert torch.equal(torch.get_rng_state(), before)
    assert calls == [1, 2, 3]
    assert epochs[0] != epochs[1] != epochs[2]
    torch.manual_seed(99)
    again = make_loader(order)
    seeder(again).set_epoch(3)
    assert [batch.tolist() for batch in again] == epochs[2]


def test_workers_get_the_seeds_of_the_epoch() -> None:
    """The base seed of the workers, too, is a function of the epoch."""
    loader = make_loader("dynamic")
    seeds = seeder(loader)
    drawn = []
    for epoch in (1, 2, 1):
        seeds.set_epoch(epoch)
        drawn.append(iter(loader)._base_seed)
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_generator_of_ones_own_is_kept() -> None:
    numbers, own = torch.arange(6), torch.Generator()
    sampler = RandomSampler(numbers, generator=own)
    seeder(DataLoader(numbers, sampler=sampler)).set_epoch(1)  # type: ignore[arg-type]
    assert sampler.generator is own


def test_a_looped_loader_is_seeded_inside() -> None:
    loader = make_loader("torch's own shuffle")
    seeder(LoopedLoader(loader, epoch_length=3)).set_epoch(4)
    assert loader.generator is not None and loader.generator.initial_seed() == 9
