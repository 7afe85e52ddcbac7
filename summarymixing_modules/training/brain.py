"""The Brain every objective builds on: safe steps, exact resume, curves and a report.

A subclass writes `compute_forward`, `compute_objectives`, `on_stage_start` and `on_stage_end`, as
in any SpeechBrain recipe; the latter calls `end_epoch` when an epoch has been validated. train.py
calls `fit`, `evaluate` and `finish`. All of these are to be called on every rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.dataio.dataloader import LoopedLoader, SaveableDataLoader
from speechbrain.utils.checkpoints import mark_as_loader, register_checkpoint_hooks
from speechbrain.utils.distributed import ddp_broadcast
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader, IterableDataset

from summarymixing_modules.bundles.initialisation import initialise_from
from summarymixing_modules.training.memory import peak_memory_mb
from summarymixing_modules.training.recipe.settings import (
    SETTINGS,
    RunSettings,
    describe,
    refuse_fewer,
)
from summarymixing_modules.training.run.averaging import is_end_of_epoch, load_average
from summarymixing_modules.training.run.checkpoint_files import while_they_last
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer, NoCheckpointError
from summarymixing_modules.training.run.order import (
    EpochOrder,
    count_batches,
    order_of,
    refuse_another_world,
    with_order,
)
from summarymixing_modules.training.run.report import write_report
from summarymixing_modules.training.run.resume import (
    EpochSeeder,
    RandomState,
    tell_ranks_apart,
)
from summarymixing_modules.training.schedules import ConfiguredRates
from summarymixing_modules.training.statistics import MovingStatistics
from summarymixing_modules.training.steps import SCHEDULER_KEYS, SafeStepBrain

logger = get_logger(__name__)

LOADER = "dataloader-TRAIN"  # SpeechBrain's name for what remembers a position


@register_checkpoint_hooks
class SafeBrain(SafeStepBrain):
    """SpeechBrain's Brain, made safe.

    - A non-finite loss or gradient, on any rank, skips the accumulation window on all ranks: the
      weights, the optimizer's state and the moving feature statistics stay as they were. So does
      an empty batch, before the forward pass. ``skipped_batches.jsonl`` in the output folder names
      the utterances. More than ``--nonfinite_patience`` skipped steps in a row stop the training.
    - An fp16 overflow lowers the loss scale and counts as such a step only at `MIN_LOSS_SCALE`.
    - Training goes on after a kill as if nothing had happened; see `training.run.resume`.
    - The scheduler in ``hparams`` (one of `SCHEDULER_KEYS`) sets the learning rate before every
      optimizer step, so that step n is made with the rate of step n.

    Keys of ``hparams`` that are read, all optional: the `known_keys`, and SpeechBrain's options.

    Raises:
        TypeError: the checkpointer is not an AtomicCheckpointer.
        ValueError: more than one scheduler, a ``curve_interval`` below 1, or a ``log_interval``
            that is no multiple of it.
    """

    known_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "avg_checkpoints",  # evaluate the mean of this many checkpoints
            "curve_interval",  # optimizer steps between two points of the curves
            "init_from",  # run or bundle whose weights to start from; null for none
            "log_interval",  # optimizer steps between two lines of the log; 10 × curve_interval
            "output_folder",
            "run_settings",  # of load_recipe; compared with the checkpoint's
            "sample_rate",  # Hz, of the audio `batch.sig`
            "seed",
            "train_logger",
            "trust_run",  # of init_from: its YAML file may be run as code
            *SCHEDULER_KEYS,
        }
    )
    #: How the best checkpoints are told: ``{"min_key": …}`` or ``{"max_key": …}``; {} = by date.
    ranking: ClassVar[dict[str, str]] = {}
    architecture_keys: ClassVar[tuple[str, ...]] = (
        "attention_type",
        "mode",
        "d_model",
        "nhead",
        "num_encoder_layers",
        "output_neurons",
    )

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module] | None = None,
        opt_class: Callable[..., torch.optim.Optimizer] | None = None,
        hparams: Mapping[str, Any] | None = None,
        run_opts: Any = None,
        checkpointer: AtomicCheckpointer | None = None,
    ) -> None:
        if checkpointer is not None and not isinstance(checkpointer, AtomicCheckpointer):
            raise TypeError(
                "The checkpointer must be !new:summarymixing_modules.training.run.checkpoints."
                f"AtomicCheckpointer, not {type(checkpointer).__name__}: a kill during one of its "
                "saves would leave a checkpoint that cannot be loaded."
            )
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        self.averaged_checkpoints = 0
        self.random_state = RandomState()
        self.settings: RunSettings | None = getattr(self.hparams, "run_settings", None)
        self.order: EpochOrder | None = None
        self._given_sampler: Any = None
        self._position_is_saved = True
        if checkpointer is not None:
            self._prepare_checkpointer(checkpointer)

    # ---- for subclasses -------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """``modules.model`` without what DDP wraps around it."""
        return getattr(self.modules.model, "module", self.modules.model)

    def architecture(self) -> dict[str, Any]:
        """What decides the shape of the model; stored with checkpoints, compared on loading."""
        found = {key: getattr(self.hparams, key, None) for key in self.architecture_keys}
        return {key: value for key, value in found.items() if value is not None}

    def end_epoch(
        self,
        epoch: int,
        train_stats: Mapping[str, float],
        valid_stats: Mapping[str, float] | None = None,
    ) -> None:
        """Close an epoch: history, ``train_logger``, checkpoint. Call it from `on_stage_end`.

        Keeps the ``avg_checkpoints`` most recent checkpoints, and as many of the best by
        ``ranking``; those saved within the epoch are deleted.

        Args:
            epoch: its number, from 1.
            train_stats: means over the epoch, such as ``{"loss": 1.2}``.
            valid_stats: likewise; "WER", "CER", "SER" and "EER" in percent. Stored in the meta.
        """
        valid_stats = valid_stats or {}
        learning_rate = self._learning_rate()
        self._measure_memory()
        stats = {"lr": learning_rate, "train": dict(train_stats), "valid": dict(valid_stats)}
        self.history.add_epoch(epoch, self.optimizer_step, stats)
        if hasattr(self.hparams, "train_logger"):
            # On every rank: the logger writes on rank 0 only, and broadcasts.
            self.hparams.train_logger.log_stats(
                {"epoch": epoch, "lr": learning_rate, "steps": self.optimizer_step},
                train_stats=dict(train_stats),
                valid_stats=dict(valid_stats),
            )
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch, **valid_stats},
                num_to_keep=max(1, int(getattr(self.hparams, "avg_checkpoints", 1))),
                max_keys=[key for order, key in self.ranking.items() if order == "max_key"],
                min_keys=[key for order, key in self.ranking.items() if order == "min_key"],
                ckpt_predicate=is_end_of_epoch,
            )
            self.checkpointer.delete_checkpoints(  # those within the epoch have served
                num_to_keep=0, ckpt_predicate=lambda checkpoint: not is_end_of_epoch(checkpoint)
            )

    def finish(
        self,
        metrics: Mapping[str, float],
        real_time_factor: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write ``result.json`` and ``curves.png`` into the output folder and print their paths.

        Args:
            metrics: the results, error rates in percent, such as ``{"test_wer": 4.2}``.
            real_time_factor: seconds of computing per second of audio, where it was measured.
            extra: more entries for ``result.json``.

        Returns:
            The content of ``result.json``, on every rank.

        Raises:
            ValueError: hparams has no ``output_folder``.
        """
        if self.output_folder is None:
            raise ValueError("finish() needs an output_folder in the YAML file.")
        self.history.count_time()
        self._measure_memory()
        return write_report(self, self.output_folder, metrics, real_time_factor, extra)

    # ---- training -------------------------------------------------------------------------------

    def fit(
        self,
        epoch_counter: Iterable[int],
        train_set: Any,
        valid_set: Any = None,
        progressbar: bool | None = None,
        train_loader_kwargs: Mapping[str, Any] | None = None,
        valid_loader_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Train, resuming from the last checkpoint; see SpeechBrain's method for the arguments."""
        if not self.test_only:
            if not isinstance(train_set, DataLoader | LoopedLoader):
                options = dict(train_loader_kwargs or {})
                train_set = self.make_dataloader(train_set, sb.Stage.TRAIN, **options)
            self._prepare_loader(train_set)
            tell_ranks_apart(self._seed())
        try:
            super().fit(
                self._epochs_to_do(epoch_counter),
                train_set,
                valid_set,
                progressbar,
                valid_loader_kwargs=dict(valid_loader_kwargs or {}),
            )
        except KeyboardInterrupt as stop:
            if self.checkpointer is not None:
                stop.add_note(self.checkpointer.where_to_go_on())
            raise

    def _epochs_to_do(self, epoch_counter: Iterable[int]) -> Iterator[int]:
        """The epochs, none after the limit of optimizer steps (a finished run that is resumed)."""
        refuse_fewer("optimizer steps", self.optimizer_step_limit, self.optimizer_step)
        refuse_fewer("epochs", getattr(epoch_counter, "limit", None), len(self.history.epochs))
        if self.step and self.order is None:  # in the middle of an epoch, with somebody's loader
            refuse_another_world(self.random_state.made_by)
        epochs = iter(epoch_counter)
        while self.optimizer_step_limit is None or self.optimizer_step < self.optimizer_step_limit:
            epoch = next(epochs, None)
            if epoch is None:
                return
            self.random_state.restore_before_epoch()
            before = self.optimizer_step
            yield epoch
            if not self.guard.window_is_full:
                logger.warning(
                    f"The last {self.guard.batches} batches of epoch {epoch} made no step: the "
                    "loader does not tell how many it has."
                )
                self.guard.open_window(0)
            if self.optimizer_step == before:
                logger.warning(f"Epoch {epoch} made no optimizer step: all its batches failed.")

    def on_fit_start(self) -> None:
        """Compile, wrap for DDP, make the optimizers, load the last checkpoint."""
        if self.checkpointer is not None:
            self.checkpointer.clean_up()
        self._initialise()
        self._compile()
        self._wrap_distributed()
        self.init_optimizers()
        self._resume()
        self.statistics = MovingStatistics(self.modules)  # DDP may have replaced batch norms

    def _initialise(self) -> None:
        """Take the weights of the run ``init_from``, unless this run has begun already."""
        run = getattr(self.hparams, "init_from", None)
        if run is None or self.checkpointer is None or self.checkpointer.list_checkpoints():
            return
        averaged = max(1, int(getattr(self.hparams, "avg_checkpoints", 1)))
        initialise_from(
            run,
            self.checkpointer.recoverables,
            self.architecture(),
            averaged,
            self.ranking,
            getattr(self.hparams, "compute_features", None),
            getattr(self.hparams, "trust_run", False),
            getattr(self, "tokenizer", None),
        )

    def _resume(self) -> None:
        """Load the last checkpoint; with changed settings, take up their schedule at its step."""
        if self.checkpointer is None:
            return
        configured = ConfiguredRates(self.checkpointer.recoverables)
        self.checkpointer.recover_if_possible()
        if self.settings is None or not self.settings.changes:
            return
        configured.restore(self.checkpointer.recoverables, self.optimizer_step)
        changes = describe(self.settings.changes)
        self.history.changes.append({"step": self.optimizer_step, "settings": changes})
        listed = "; ".join(map(str, self.settings.changes))
        logger.warning(f"Going on at step {self.optimizer_step} with other settings: {listed}")

    def _start_epoch(self, epoch: int, loader: DataLoader | LoopedLoader) -> None:
        self.epoch = epoch
        self.epoch_batches = count_batches(loader)
        if self.debug and self.epoch_batches is not None:
            self.epoch_batches = min(self.epoch_batches, self.debug_batches)
        self.clock.restart()

    # ---- evaluation -----------------------------------------------------------------------------

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Load the best checkpoint, or the mean of the best ``avg_checkpoints`` by the same key.

        Without a key the most recent ones are taken. The progress of the training (step, history,
        random numbers) stays what it is.

        Raises:
            NoCheckpointError: with ``--test_only``, when there is no checkpoint to evaluate.
        """
        if self.checkpointer is not None:
            while_they_last(lambda: self._load_best(max_key, min_key))

    def _load_best(self, max_key: str | None, min_key: str | None) -> None:
        assert self.checkpointer is not None
        found = self.checkpointer.find_checkpoints(
            max_key=max_key,
            min_key=min_key,
            ckpt_predicate=is_end_of_epoch,
            max_num_checkpoints=max(1, int(getattr(self.hparams, "avg_checkpoints", 1))),
        )
        if not found and self.test_only:
            by = f" with a {max_key or min_key}" if max_key or min_key else ""
            raise NoCheckpointError(
                f"There is no checkpoint{by} in {self.checkpointer.checkpoints_dir}: train first "
                "(without --test_only), or give the --output_folder of a trained model."
            )
        if not found:
            logger.warning("No checkpoint to load: evaluating the weights as they are.")
            return
        progress = {name: self.checkpointer.recoverables.pop(name) for name in self._progress()}
        try:
            self.checkpointer.load_checkpoint(found[0])
        finally:
            self.checkpointer.recoverables.update(progress)
        if len(found) > 1:
            load_average(self.checkpointer, found)
        self.averaged_checkpoints = len(found)
        if not self.history.epochs:  # a process that did not train: the report wants the curves
            latest = self.checkpointer.find_checkpoint().paramfiles.get("history")
            if latest is not None:
                self.history.load(latest)

    # ---- checkpoints ----------------------------------------------------------------------------

    def _progress(self) -> dict[str, Any]:
        parts = {"brain": self, "history": self.history, "random_state": self.random_state}
        return parts if self.settings is None else {**parts, SETTINGS: self.settings}

    def _prepare_checkpointer(self, checkpointer: AtomicCheckpointer) -> None:
        checkpointer.architecture = checkpointer.architecture or self.architecture()
        checkpointer.read_only = checkpointer.read_only or self.test_only
        # With --debug every rank has made a temporary folder of its own.
        checkpointer.checkpoints_dir = ddp_broadcast(checkpointer.checkpoints_dir)
        for name, recoverable in self._progress().items():
            checkpointer.add_recoverable(name, recoverable, optional_load=name != "brain")
        known = checkpointer.recoverables.values()
        if self.lr_scheduler is not None and all(self.lr_scheduler is not r for r in known):
            checkpointer.add_recoverable("lr_scheduler", self.lr_scheduler)

    def _seed(self) -> int:
        seed = getattr(self.hparams, "seed", None)
        return int(os.environ.get("SB_GLOBAL_SEED", "0") if seed is None else seed)

    def _train_loader_specifics(self, dataset: Any, loader_kwargs: dict[str, Any]) -> Any:
        """Options of the train loader, whose order `EpochOrder` makes, under DDP and without."""
        if isinstance(dataset, IterableDataset):
            return super()._train_loader_specifics(dataset, loader_kwargs)
        return with_order(loader_kwargs, dataset, self._seed(), lambda: self.step)

    def _prepare_loader(self, loader: DataLoader | LoopedLoader) -> None:
        """Make the train loader's order a function of seed and epoch, and its position saved."""
        if not isinstance(self.train_sampler, EpochSeeder):  # of an earlier call
            self._given_sampler = self.train_sampler
        self.train_sampler: Any = EpochSeeder(
            loader, self._seed(), self.random_state, self._start_epoch, self._given_sampler
        )
        self.order = order_of(loader)
        if self.settings is not None and self.order is not None:
            self.settings.data = self.order.fingerprint
        if self.checkpointer is None:
            return
        if self.order is not None:
            self.checkpointer.recoverables.pop(LOADER, None)  # of make_dataloader
            self.checkpointer.add_recoverable("order", self.order)
        elif isinstance(loader, SaveableDataLoader | LoopedLoader):
            self.checkpointer.add_recoverable(LOADER, loader)
        else:
            self._position_is_saved = False
            logger.warning(
                f"A {type(loader).__name__} does not save its position: a resumed epoch starts "
                "over. Give fit() the data set, or a loader of make_dataloader()."
            )

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time: float, steps_since_ckpt: int) -> bool:
        """Save within an epoch only between accumulation windows: gradients are not saved."""
        return self.guard.window_is_full and super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def _save_intra_epoch_ckpt(self) -> None:
        super()._save_intra_epoch_ckpt()
        self.clock.restart()  # saving is no part of the next step

    def _measure_memory(self) -> None:
        peak = peak_memory_mb(self.device)
        totals = self.history.totals
        totals["peak_memory_mb"] = max(totals["peak_memory_mb"], peak)

    @mark_as_loader
    def _recover_progress(self, path: Path, end_of_epoch: bool) -> None:
        """Restore the position in the training; SpeechBrain's saver wrote it."""
        self._recover(path, end_of_epoch)
        if end_of_epoch or not self._position_is_saved:  # the next epoch begins, or this one again
            self.step = 0
            self.avg_train_loss = 0.0
