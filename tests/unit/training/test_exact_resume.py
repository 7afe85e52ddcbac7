"""RandomState, EpochSeeder and EpochOrder: the pieces of a resume that is exact."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from speechbrain.dataio.dataloader import LoopedLoader, SaveableDataLoader
from speechbrain.dataio.sampler import DynamicBatchSampler, ReproducibleRandomSampler
from speechbrain.utils.seed import seed_everything
from torch.utils.data import DataLoader, RandomSampler

from summarymixing_modules.data.text.lines import LineBatchSampler
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.run import order, resume
from summarymixing_modules.training.run.order import EpochOrder, refuse_another_world, with_order
from summarymixing_modules.training.run.resume import EpochSeeder, RandomState, tell_ranks_apart


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
    assert "made with fewer processes" in caplog.text and state.made_by == 2
    before = torch.get_rng_state()
    state.restore_before_epoch()
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_draw_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in (0, 1, 2):
        monkeypatch.setattr(resume, "current_rank", lambda rank=rank: rank)
        seed_everything(7)
        tell_ranks_apart(7)
        drawn.append(draw())
    seed_everything(7)
    assert drawn[0] == draw()
    assert all(len(set(numbers)) == 3 for numbers in zip(*drawn, strict=True))


def make_loader(order: str) -> DataLoader:
    """A loader of 12 numbers in batches of 2 or so."""
    numbers = torch.arange(12)
    if order == "torch's own shuffle":
        return SaveableDataLoader(numbers, batch_size=2, shuffle=True)
    if order == "reproducible":
        return SaveableDataLoader(
            numbers, batch_size=2, sampler=ReproducibleRandomSampler(numbers, seed=3)
        )
    if order == "torch's own, dealt":
        own = {"sampler": RandomSampler(range(12)), "batch_size": 2}
        return SaveableDataLoader(numbers, **with_order(own, numbers, 5, lambda: 0))
    lengths = [1 + i % 4 for i in range(12)]
    batches = DynamicBatchSampler(numbers, 8, 2, lengths_list=lengths, shuffle=True)
    return SaveableDataLoader(numbers, batch_sampler=batches)


def seeder(loader: Any, calls: list[int] | None = None) -> EpochSeeder:
    """An EpochSeeder that only notes the epochs."""
    calls = [] if calls is None else calls
    return EpochSeeder(loader, 5, RandomState(), lambda epoch, loader: calls.append(epoch))


@pytest.mark.parametrize(
    "order", ["torch's own shuffle", "torch's own, dealt", "reproducible", "dynamic"]
)
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


LENGTHS = [1 + 7 * i % 30 for i in range(100)]


def batches(longest: float = 60) -> DynamicBatchSampler:
    """Batches of 100 examples, made by length."""
    return DynamicBatchSampler(range(100), longest, 6, lengths_list=LENGTHS, seed=3)


class Ranks:
    """An epoch of so many processes, from a checkpoint or from its beginning."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        sampler: Any,
        checkpoint: Path | None = None,
        batch_size: int | None = None,
        step: int = 0,
        data: Any = range(100),
    ) -> None:
        self.shares: list[list[Any]] = []
        self.steps = step
        monkeypatch.setattr(order, "world_size", lambda: number)
        for rank in range(number):
            monkeypatch.setattr(order, "current_rank", lambda rank=rank: rank)
            self.order = EpochOrder(sampler, data, batch_size, lambda: self.steps)
            if checkpoint is not None:
                self.order.load(checkpoint, end_of_epoch=False)
            self.order.set_epoch(1)
            assert len(self.order) == step * (batch_size or 1) + len(list(self.order))
            self.shares.append([np.ravel(item).tolist() for item in self.order])

    def read(self, items: int | None = None) -> list[int]:
        """The examples that the first items of every rank hold."""
        return sorted(i for share in self.shares for item in share[:items] for i in item)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (1, 2), (2, 1), (2, 4), (4, 3)])
@pytest.mark.parametrize("kind", ["batches", "arrays", "indices"])
def test_a_resumed_epoch_reads_the_rest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int, kind: str
) -> None:
    """Whatever the number of processes; with the same number, in the same order."""
    size = 5 if kind == "indices" else None

    def make_sampler() -> Any:
        if kind == "indices":
            return ReproducibleRandomSampler(range(100), seed=3)
        return LineBatchSampler(np.array(LENGTHS), 6, 3) if kind == "arrays" else batches()

    first = Ranks(monkeypatch, before, make_sampler(), batch_size=size)
    assert len({len(share) for share in first.shares}) == 1, "DDP wants equally many"
    assert set(first.read()) == set(range(100))
    first.steps = 3
    first.order.save(tmp_path / "order")
    items = 3 * (size or 1)
    second = Ranks(monkeypatch, after, make_sampler(), tmp_path / "order", size, step=3)
    assert len({len(share) for share in second.shares}) == 1
    assert {*range(100)} - {*first.read(items)} <= {*second.read()}
    if before == after:
        assert second.shares == [share[items:] for share in first.shares]
    second.steps = 4  # once more, in the middle of what is left
    second.order.save(tmp_path / "order")
    third = Ranks(monkeypatch, 1, make_sampler(), tmp_path / "order", size, step=4)
    done = first.read(items) + second.read(size or 1) + third.read()
    assert sorted(done) == list(range(100)), "one process fills nothing up"


@pytest.mark.parametrize("longest", [30, 60, 90])
def test_the_rest_is_read_in_batches_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    first = Ranks(monkeypatch, 2, batches())
    first.steps = 4
    first.order.save(tmp_path / "order")
    second = Ranks(monkeypatch, 1, batches(longest), tmp_path / "order", step=4)
    assert sorted(first.read(4) + second.read()) == list(range(100))
    (share,) = second.shares
    padded = [len(batch) * max(LENGTHS[i] for i in batch) for batch in share]
    assert max(padded) <= longest, "none is longer than a batch may be"
    whole = len(Ranks(monkeypatch, 1, batches(longest)).shares[0])
    assert len(share) <= whole * len(second.read()) / 100 + 6, "one remainder for every length"


def test_examples_drawn_twice_are_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [0, 1, 1, 2, 1, 2, 3, 0]
    first = Ranks(monkeypatch, 1, drawn, batch_size=1)
    first.steps = 3
    first.order.save(tmp_path / "order")
    second = Ranks(monkeypatch, 1, drawn, tmp_path / "order", batch_size=1, step=3)
    assert second.shares == [[[i] for i in drawn[3:]]]


def test_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Data(list[int]):
        data_ids: tuple[str, ...] = ("a", "b")

    class Others(Data):
        data_ids = ("b", "a")

    folder = tmp_path / "CKPT+now"
    folder.mkdir()
    Ranks(monkeypatch, 1, [0, 1], batch_size=1, data=Data([0, 1])).order.save(folder / "order")
    Ranks(monkeypatch, 1, [0, 1], folder / "order", batch_size=1, data=Data([0, 1]))
    for others in (Others([0, 1]), [0, 1, 2]):
        with pytest.raises(InputError, match=r"(?s)--train_splits.*delete .*CKPT\+now"):
            Ranks(monkeypatch, 1, [0, 1], folder / "order", batch_size=1, data=others)


def test_positions_of_single_processes_need_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "world_size", lambda: 2)
    refuse_another_world(None)
    refuse_another_world(2)
    with pytest.raises(InputError, match="4 processes were reading.* start 4"):
        refuse_another_world(4)
