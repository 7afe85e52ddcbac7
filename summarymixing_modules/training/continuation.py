"""What a training needs to go on after a kill as if nothing had happened, beside the Brain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from speechbrain.dataio.dataloader import LoopedLoader, SaveableDataLoader
from speechbrain.utils.distributed import ddp_broadcast
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader

from summarymixing_modules.bundles.initialisation import initialise_from
from summarymixing_modules.training.recipe.settings import (
    SETTINGS,
    RunSettings,
    describe,
    refuse_fewer,
)
from summarymixing_modules.training.run.averaging import load_best
from summarymixing_modules.training.run.checkpoint_files import while_they_last
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer, NoCheckpointError
from summarymixing_modules.training.run.order import EpochOrder, order_of, refuse_another_world
from summarymixing_modules.training.run.resume import EpochSeeder, RandomState
from summarymixing_modules.training.schedules import ConfiguredRates

if TYPE_CHECKING:
    from summarymixing_modules.training.brain import SafeBrain

logger = get_logger(__name__)

LOADER = "dataloader-TRAIN"  # SpeechBrain's name for what remembers a position


class Continuation:
    """The checkpoints of a Brain: what is in them, and how a training goes on from them.

    Args:
        brain: whose training it is; without a checkpointer, nothing is saved or loaded.

    Attributes:
        position_is_saved: checkpoints within an epoch know what was read of it.
    """

    def __init__(self, brain: SafeBrain) -> None:
        self._brain, self._checkpointer = brain, brain.checkpointer
        self.position_is_saved = True
        self._random_state = RandomState()
        self._settings: RunSettings | None = brain.option("run_settings")
        self._order: EpochOrder | None = None
        self._given_sampler: Any = None
        if self._checkpointer is not None:
            self._register(self._checkpointer)

    @property
    def seed(self) -> int:
        """Of the run."""
        seed = self._brain.option("seed")
        return int(os.environ.get("SB_GLOBAL_SEED", "0") if seed is None else seed)

    @property
    def averaged(self) -> int:
        """Checkpoints whose mean is evaluated."""
        return max(1, int(self._brain.option("avg_checkpoints", 1)))

    def _progress(self) -> dict[str, Any]:
        brain = self._brain
        parts = {"brain": brain, "history": brain.history, "random_state": self._random_state}
        return parts if self._settings is None else {**parts, SETTINGS: self._settings}

    def _register(self, checkpointer: AtomicCheckpointer) -> None:
        brain = self._brain
        checkpointer.architecture = checkpointer.architecture or brain.architecture()
        checkpointer.read_only = checkpointer.read_only or brain.test_only
        # With --debug every rank has made a temporary folder of its own.
        checkpointer.checkpoints_dir = ddp_broadcast(checkpointer.checkpoints_dir)
        for name, recoverable in self._progress().items():
            checkpointer.add_recoverable(name, recoverable, optional_load=name != "brain")
        if brain.monitors is not None:
            checkpointer.add_recoverable("monitors", brain.monitors)
        for name, schedule in (brain.rates.schedules() if brain.rates else {}).items():
            checkpointer.add_recoverable(f"{name}_schedule", schedule)
        known = checkpointer.recoverables.values()
        if brain.lr_scheduler is not None and all(brain.lr_scheduler is not r for r in known):
            checkpointer.add_recoverable("lr_scheduler", brain.lr_scheduler)

    def seeded(self, loader: DataLoader | LoopedLoader, sampler: Any) -> EpochSeeder:
        """Make the train loader's order a function of seed and epoch, and its position saved.

        Args:
            loader: of the training.
            sampler: what the Brain has as its ``train_sampler``.

        Returns:
            what takes that one's place.
        """
        if not isinstance(sampler, EpochSeeder):  # of an earlier call
            self._given_sampler = sampler
        self._order = order_of(loader)
        if self._settings is not None and self._order is not None:
            self._settings.data = self._order.fingerprint
        if self._checkpointer is not None:
            self._register_position(loader, self._checkpointer)
        return EpochSeeder(
            loader, self.seed, self._random_state, self._brain.start_epoch, self._given_sampler
        )

    def _register_position(
        self, loader: DataLoader | LoopedLoader, checkpointer: AtomicCheckpointer
    ) -> None:
        if self._order is not None:
            checkpointer.recoverables.pop(LOADER, None)  # of make_dataloader
            checkpointer.add_recoverable("order", self._order)
        elif isinstance(loader, SaveableDataLoader | LoopedLoader):
            checkpointer.add_recoverable(LOADER, loader)
        else:
            self.position_is_saved = False
            logger.warning(
                f"A {type(loader).__name__} does not save its position: a resumed epoch starts "
                "over. Give fit() the data set, or a loader of make_dataloader()."
            )

    def initialise(self) -> None:
        """Take the weights of the run ``init_from``, unless this run has begun already."""
        brain, run = self._brain, self._brain.option("init_from")
        if run is None or self._checkpointer is None or self._checkpointer.list_checkpoints():
            return
        features = getattr(brain.modules, "features", None)
        initialise_from(
            run,
            self._checkpointer.recoverables,
            brain.architecture(),
            self.averaged,
            getattr(features, "compute_features", None),
            brain.option("trust_run", False),
            brain.option("tokenizer"),
        )

    def resume(self) -> None:
        """Load the last checkpoint; with changed settings, take up their schedule at its step."""
        if self._checkpointer is None:
            return
        configured = ConfiguredRates(self._checkpointer.recoverables)
        self._checkpointer.recover_if_possible()
        if self._settings is None or not self._settings.changes:
            return
        brain, changes = self._brain, self._settings.changes
        configured.restore(self._checkpointer.recoverables, brain.optimizer_step)
        brain.history.changes.append({"step": brain.optimizer_step, "settings": describe(changes)})
        listed = "; ".join(map(str, changes))
        logger.warning(f"Going on at step {brain.optimizer_step} with other settings: {listed}")

    def epochs_to_do(self, epoch_counter: Iterable[int]) -> Iterator[int]:
        """The epochs, none after the limit of optimizer steps (a finished run that is resumed)."""
        brain = self._brain
        limit = brain.optimizer_step_limit
        refuse_fewer("optimizer steps", limit, brain.optimizer_step)
        refuse_fewer("epochs", getattr(epoch_counter, "limit", None), len(brain.history.epochs))
        if brain.step and self._order is None:  # in the middle of one, with somebody's loader
            refuse_another_world(self._random_state.made_by)
        epochs = iter(epoch_counter)
        while limit is None or brain.optimizer_step < limit:
            epoch = next(epochs, None)
            if epoch is None:
                return
            self._random_state.restore_before_epoch()
            yield epoch

    def load_best(self, max_key: str | None, min_key: str | None) -> int:
        """Load the best checkpoint, or the mean of the best ones, but not the progress.

        Returns:
            how many.

        Raises:
            NoCheckpointError: with ``--test_only``, when there is no checkpoint to evaluate.
        """
        checkpointer, history, kept = self._checkpointer, self._brain.history, self._progress()
        if checkpointer is None:
            return 0

        def read() -> int:
            loaded = load_best(checkpointer, max_key, min_key, self.averaged, kept)
            if loaded and not history.epochs:  # did not train here: the report wants the curves
                latest = checkpointer.find_checkpoint().paramfiles.get("history")
                if latest is not None:
                    history.load(latest)
            return loaded

        loaded = while_they_last(read)
        if not loaded and self._brain.test_only:
            by = f" with a {max_key or min_key}" if max_key or min_key else ""
            raise NoCheckpointError(
                f"There is no checkpoint{by} in {checkpointer.checkpoints_dir}: train first "
                "(without --test_only), or give the --output_folder of a trained model."
            )
        if not loaded:
            logger.warning("No checkpoint to load: evaluating the weights as they are.")
        return loaded
