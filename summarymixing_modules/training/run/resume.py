"""Exact resume: the random numbers and the order of the data, as they were at the checkpoint.

With ``num_workers=0``, training N steps equals training K, being killed, and training N - K more,
bit for bit on the CPU. Three things make it so:

- `RandomState` saves the generators' states of every rank and gives them back at the right moment:
  before the epoch's first hook if the checkpoint closed an epoch, else after the loader's iterator
  has been prepared and before it fetches its first batch (whose pipeline may draw numbers, too).
- `EpochSeeder` gives the loader and the samplers generators of their own, a function of the seed
  and the epoch alone, so that making an iterator never draws from the global generator.
- `order.EpochOrder` knows what has been read in an epoch, and gives the rest.

With workers the batches and their order are still the same, and so are the workers' seeds at the
start of an epoch. In the middle of an epoch the workers start afresh: a pipeline that draws random
numbers (a random crop, say) then draws others than the uninterrupted run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.dataloader import LoopedLoader
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import get_rank, is_distributed_initialized
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader

logger = get_logger(__name__)


def current_rank() -> int:
    """This process's rank; 0 without DDP."""
    return (get_rank() or 0) if is_distributed_initialized() else 0


def world_size() -> int:
    """How many processes train; 1 without DDP."""
    return torch.distributed.get_world_size() if is_distributed_initialized() else 1


def tell_ranks_apart(seed: int) -> None:
    """Give every rank but the first random numbers of its own.

    All have begun with one seed, which gives them equal weights; two ranks that drop the same
    features or layers would be less random than one that reads twice as much.
    """
    if rank := current_rank():
        random.seed(seed + rank)
        np.random.seed((seed + rank) % 2**32)
        torch.manual_seed(seed + rank)


def get_random_state() -> dict[str, Any]:
    """The states of all generators of this process, as tensors and plain Python values.

    Python's ``random``, numpy's global generator, torch's on the CPU and, if there is one, torch's
    on the current CUDA device.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Give all generators the states that `get_random_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, *rest = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@partial(register_checkpoint_hooks, save_on_main_only=False)
class RandomState:
    """The random generators as a recoverable: a file per rank, restored when training goes on."""

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._mid_epoch = False
        #: How many processes made the checkpoint that was loaded; None before.
        self.made_by: int | None = None

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write this rank's generators; rank 0's file bears the recoverable's name."""
        torch.save(get_random_state(), self._rank_file(Path(path)))

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Read this rank's generators, to be restored once training goes on."""
        file = self._rank_file(Path(path))
        self.made_by = 1 + len(list(file.parent.glob(f"{Path(path).stem}-rank*")))
        if not file.exists():
            logger.warning(
                f"{file} is missing: the checkpoint was made with fewer processes. "
                f"Rank {current_rank()} goes on with other random numbers.",
                main_process_only=False,
            )
            return
        self._pending = torch.load(file, map_location="cpu", weights_only=True)
        self._mid_epoch = not end_of_epoch

    def restore_before_epoch(self) -> None:
        """Restore what was loaded, before the hooks of the epoch."""
        if self._pending is not None:
            set_random_state(self._pending)
            if not self._mid_epoch:
                self._pending = None

    def restore_before_first_batch(self) -> None:
        """Restore what was loaded in the middle of an epoch, when the next thing is a batch."""
        if self._pending is not None:
            set_random_state(self._pending)
            self._pending = None

    @staticmethod
    def _rank_file(path: Path) -> Path:
        rank = current_rank()
        return path if rank == 0 else path.with_name(f"{path.stem}-rank{rank}{path.suffix}")


class EpochSeeder:
    """Fixes the order and the random seeds of an epoch, whatever happened before it.

    Made to be a Brain's ``train_sampler``: SpeechBrain calls its `set_epoch` just before it
    iterates over the train loader. (SpeechBrain itself sets ``train_sampler`` for a shuffled
    loader and under DDP, but not for a ``batch_sampler`` without DDP, which then makes the same
    batches in every process and epoch.)

    Args:
        loader: the train loader.
        seed: of the run; an epoch's generators are seeded with ``seed + epoch``.
        random_state: restored when the epoch is ready to start.
        on_epoch: called last, with the epoch's number and the loader.
        sampler: a sampler the loader does not show, if any.
    """

    def __init__(
        self,
        loader: DataLoader | LoopedLoader,
        seed: int,
        random_state: RandomState,
        on_epoch: Callable[[int, Any], None],
        sampler: Any = None,
    ) -> None:
        inner = loader.loader if isinstance(loader, LoopedLoader) else loader
        inner.generator = torch.Generator()
        shown: tuple[Any, ...] = (sampler, inner.batch_sampler, inner.sampler)
        samplers = {id(s): s for s in shown}.values()
        self._samplers = [s for s in samplers if hasattr(s, "set_epoch")]
        self._generators = [inner.generator]
        wrapped = [s.sampler for s in self._samplers if hasattr(s, "sampler")]
        for own in [*samplers, *wrapped]:  # torch's own draw their seed where theirs is None
            if not hasattr(own, "set_epoch") and getattr(own, "generator", self) is None:
                own.generator = torch.Generator()
                self._generators.append(own.generator)
        self._seed = seed
        self._random_state = random_state
        self._on_epoch, self._loader = on_epoch, loader

    def set_epoch(self, epoch: int) -> None:
        """Seed everything that orders the epoch's data, then restore the random numbers."""
        for generator in self._generators:
            generator.manual_seed(self._seed + epoch)
        for sampler in self._samplers:
            sampler.set_epoch(epoch)
        self._random_state.restore_before_first_batch()
        self._on_epoch(epoch, self._loader)
