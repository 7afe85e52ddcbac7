"""Who reads what in an epoch: one order for any number of processes, which can be gone on with.

SpeechBrain shuffles batches once more where there are several processes, and remembers how many
each of them was given: with another number of processes a resumed epoch would leave some out and
read others twice. Here a checkpoint knows which examples have been read. A resumed epoch reads the
others once, with any number of processes and with batches of any size.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from speechbrain.dataio.sampler import ReproducibleRandomSampler
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch.utils.data import Sampler

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.run.resume import current_rank, world_size


@register_checkpoint_hooks
class EpochOrder(Sampler[Any]):
    """This rank's share of what a sampler gives in an epoch, without what was read already.

    Batches, or single examples, are dealt to the ranks in turn: a step reads the same with four
    processes as with two that accumulate twice as many. The last round is filled up with the first
    ones of the epoch, as DDP wants all ranks to have equally many.

    Args:
        sampler: gives indices, or batches of them; the same ones on all ranks.
        dataset: what the indices are of.
        batch_size: of the loader that makes batches of indices; None if the sampler gives batches.
        step: batches of the epoch that this rank has trained on, before it was resumed included.
    """

    def __init__(
        self, sampler: Any, dataset: Any, batch_size: int | None, step: Callable[[], int]
    ) -> None:
        self.sampler, self.dataset = sampler, dataset
        self._batch_size, self._step = batch_size, step
        self._loaded_N: np.ndarray | None = None  # how often each example was read: for an epoch
        self._before_N: np.ndarray | None = None  # that a checkpoint lies in; and for this one
        self._rest: list[Any] = []  # what this epoch still has for all ranks, from _first on
        self._share: list[Any] = []
        self._first = 0  # the value of step() then

    def set_epoch(self, epoch: int) -> None:
        """Make the order of an epoch; of the one that a checkpoint lies in, what is left of it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        order = list(self.sampler)
        self._before_N, self._loaded_N = self._loaded_N, None
        self._rest, self._first = order, self._step()
        if self._before_N is not None:
            self._rest = list(unread(order, self._before_N))
        filling = islice(cycle(order), -len(self._rest) % world_size())
        self._share = [*self._rest, *filling][current_rank() :: world_size()]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._share)

    def __len__(self) -> int:
        """Of the whole epoch, what was read of it before included."""
        return self._first * (self._batch_size or 1) + len(self._share)

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write how often each example has been read in this epoch."""
        taken = max(0, self._step() - self._first) * (self._batch_size or 1) * world_size()
        read_N = np.zeros(len(self.dataset), np.uint16)
        if self._before_N is not None:
            read_N += self._before_N
        for item in self._rest[:taken]:
            np.add.at(read_N, item, 1)
        with Path(path).open("wb") as file:
            np.savez_compressed(file, read=read_N, data=self.fingerprint)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Go on in the epoch of a checkpoint that lies within one.

        Raises:
            InputError: the training data are no longer those of the checkpoint.
        """
        if end_of_epoch:
            return
        with np.load(path) as saved:
            if str(saved["data"]) != self.fingerprint:
                folder = Path(path).parent
                raise InputError(
                    f"The checkpoint {folder} lies within an epoch, and the training data are no "
                    "longer those of that epoch, or in another order. Give the flags of the data "
                    "as they were (such as --train_splits, --sorting, --avoid_if_longer_than), or "
                    f"delete {folder} to go on from the end of the epoch before."
                )
            self._loaded_N = saved["read"]

    @cached_property
    def fingerprint(self) -> str:
        """Tells data sets apart by the names of their examples, or else by their number."""
        digest = hashlib.sha256()
        for name in getattr(self.dataset, "data_ids", [len(self.dataset)]):
            digest.update(f"{name}\n".encode())
        return digest.hexdigest()


def unread(order: Sequence[Any], read_N: np.ndarray) -> Iterator[Any]:
    """What is left of an epoch's batches, or single indices.

    Batches that nothing was read of stay as they are, in their order. What is left of others is
    joined, among batches of as many examples, to batches of so many: where batches are made by
    length, these hold examples of about one length, and none gets longer than it could be.

    Args:
        order: all of the epoch.
        read_N: how often each index was read.
    """
    read_N = read_N.copy()
    joined: defaultdict[int, list[int]] = defaultdict(list)
    for item in order:
        rest = joined[np.size(item)]
        if not rest and not read_N[item].any():
            yield item
            continue
        for index in np.ravel(item).tolist():
            if read_N[index]:
                read_N[index] -= 1
                continue
            rest.append(index)
            if len(rest) == np.size(item):
                yield rest.copy() if np.ndim(item) else index
                rest.clear()
    yield from (rest for rest in joined.values() if rest)


def with_order(
    options: Mapping[str, Any], dataset: Any, seed: int, step: Callable[[], int]
) -> dict[str, Any]:
    """Options of a train loader whose order is an `EpochOrder`.

    Args:
        options: of SpeechBrain's ``make_dataloader``.
        dataset: with a length.
        seed: of the order, where ``shuffle`` asks for one and no sampler makes it.
        step: see `EpochOrder`.
    """
    options = dict(options)
    if (sampler := options.get("batch_sampler")) is not None:
        return {**options, "batch_sampler": EpochOrder(sampler, dataset, None, step)}
    if (sampler := options.get("sampler")) is None:
        shuffled = options.pop("shuffle", False)
        sampler = ReproducibleRandomSampler(dataset, seed) if shuffled else range(len(dataset))
    order = EpochOrder(sampler, dataset, options.get("batch_size", 1), step)
    return {**options, "sampler": order}


def order_of(loader: Any) -> EpochOrder | None:
    """The order of a loader that `with_order` made the options of."""
    samplers = (getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None))
    return next((sampler for sampler in samplers if isinstance(sampler, EpochOrder)), None)


def count_batches(loader: Any) -> int | None:
    """Batches of an epoch on this rank, or None where the loader cannot tell."""
    try:
        return len(loader)
    except TypeError:  # of an IterableDataset
        return None


def refuse_another_world(made_by: int | None) -> None:
    """Refuse to go on within an epoch where each process's loader remembers its own position.

    Args:
        made_by: how many processes made the checkpoint; None = there is none.

    Raises:
        InputError: they were more or fewer than now.
    """
    if made_by not in (None, world_size()):
        raise InputError(
            f"The checkpoint lies within an epoch that {made_by} processes were reading, and now "
            f"there are {world_size()}: start {made_by}, or give fit() the data set and not a "
            "loader, which remembers a position for each of them."
        )
