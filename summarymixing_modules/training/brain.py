"""The Brain that every recipe's is made of: safe steps, exact resume, scores, curves and a report.

A recipe writes `compute_forward` and `compute_objectives`, as in any SpeechBrain recipe, and says
in `make_scores` what is counted in evaluations. Its ``main`` calls `from_recipe`, `fit_on`,
`evaluate_all` and `finish`. All of these are to be called on every rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import speechbrain as sb
import torch
from speechbrain.dataio.dataloader import LoopedLoader
from speechbrain.utils.checkpoints import mark_as_loader, register_checkpoint_hooks
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader, IterableDataset

from summarymixing_modules.data.corpora import corpus_spec
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.continuation import Continuation
from summarymixing_modules.training.memory import peak_memory_mb
from summarymixing_modules.training.part_rates import PartRates
from summarymixing_modules.training.recipe.reads import keys_needed
from summarymixing_modules.training.run.averaging import is_end_of_epoch
from summarymixing_modules.training.run.checkpoints import RANKING, AtomicCheckpointer
from summarymixing_modules.training.run.order import count_batches, with_order
from summarymixing_modules.training.run.report import write_report
from summarymixing_modules.training.run.resume import tell_ranks_apart
from summarymixing_modules.training.scores.error_rates import in_error_rate
from summarymixing_modules.training.scores.monitors import Monitor, Monitors
from summarymixing_modules.training.scores.score import Score
from summarymixing_modules.training.scores.test_sets import Evaluated, TestSets
from summarymixing_modules.training.second_stage import SecondStage
from summarymixing_modules.training.statistics import MovingStatistics
from summarymixing_modules.training.steps import SafeStepBrain

if TYPE_CHECKING:
    from summarymixing_modules.training.data.audio import AudioData
    from summarymixing_modules.training.recipe.config import Recipe

logger = get_logger(__name__)


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

    Attributes:
        scores: what is counted in the evaluation at hand.
        monitors: what is counted in every stage; None for nothing.
        rates: optimizers and schedules of parts; None for one optimizer and the scheduler.
        second_stage: what goes on after the first optimizer; None for nothing.
        train_stats, test_stats: figures of the last such stage.
        test_sets: how much of each was scored.
        extra: more entries for result.json.

    Raises:
        TypeError: the checkpointer is not an AtomicCheckpointer.
        ValueError: more than one scheduler, a ``curve_interval`` below 1, or a ``log_interval``
            that is no multiple of it.
    """

    #: How the best checkpoints are told: ``{"min_key": …}`` or ``{"max_key": …}``; {} = by date.
    #: "WER" stands for the error rate that the corpus is scored by.
    ranking: dict[str, str] = {}  # noqa: RUF012
    #: Entry of the metrics and of result.json → the score of the first test set that it repeats.
    headlines: dict[str, str] = {}  # noqa: RUF012
    #: Keys that decide the shape of the model; stored with checkpoints, compared on loading.
    architecture_keys: ClassVar[tuple[str, ...]] = (
        "attention_type",
        "mode",
        "d_model",
        "nhead",
        "num_encoder_layers",
        "output_neurons",
        "encoder_module",
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
        self.ranking = in_error_rate(self.ranking, self.error_rate)
        self.headlines = in_error_rate(self.headlines, self.error_rate)
        self.averaged_checkpoints = 0
        self.scores: dict[str, Any] = {}
        monitored = self.make_monitor() is not None
        self.monitors: Any = Monitors(self.make_monitor) if monitored else None  # type: ignore[arg-type]
        self.rates = self.make_rates()
        self.second_stage = SecondStage.of(self.hparams, self.rates is not None)
        self.train_stats: dict[str, float] = {}
        self.test_stats: dict[str, float] = {}
        self.evaluated, self.test_sets = Evaluated(), TestSets()
        self.extra: dict[str, Any] = {}
        self.continuation = Continuation(self)

    @classmethod
    def from_recipe(cls, recipe: Recipe, **more: Any) -> Self:
        """The Brain of a recipe.

        Args:
            recipe: with the keys ``modules`` and ``checkpointer``, and perhaps ``opt_class``.
            **more: further keys, or other values; `hparams` of the Brain has them.

        Raises:
            InputError: the Brain reads a key that is in neither.
        """
        hparams = {**recipe.hparams, **more}
        if missing := sorted(keys_needed(cls) - hparams.keys()):
            raise InputError(
                f"The {cls.__name__} of this recipe reads {', '.join(missing)}, which "
                f"{recipe.hparams_file} and its bases do not have: add {missing[0]}: VALUE."
            )
        optimizer, checkpointer = hparams.get("opt_class"), hparams["checkpointer"]
        return cls(hparams["modules"], optimizer, hparams, recipe.run_opts, checkpointer)

    # ---- for recipes ----------------------------------------------------------------------------

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Score]:
        """What is counted in an evaluation that begins: name → a `Score` without counts."""
        del stage, epoch
        return {}

    def make_monitor(self) -> Monitor | None:
        """A monitor without counts; None where nothing is counted in training."""
        return None

    def make_rates(self) -> PartRates | None:
        """Optimizers and schedules for parts of the model; None for one and the scheduler."""
        return None

    @property
    def error_rate(self) -> str:
        """What transcripts are scored by: the key ``error_rate``, or what papers score by.

        "WER" (words) or "CER" (characters).
        """
        given, corpus = self.option("error_rate"), self.option("corpus")
        if given is not None:
            return str(given)
        return "WER" if corpus is None else corpus_spec(corpus).error_rate

    def training_state(self) -> dict[str, float]:
        """Figures beside the monitor's that say how far the training is."""
        return {}

    def architecture(self) -> dict[str, Any]:
        """What decides the shape of the model; stored with checkpoints, compared on loading."""
        found = {key: self.option(key) for key in self.architecture_keys}
        return {key: value for key, value in found.items() if value is not None}

    # ---- stages ---------------------------------------------------------------------------------

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Begin to count."""
        self.evaluated = Evaluated()
        self.scores = {} if stage == sb.Stage.TRAIN else self.make_scores(stage, epoch)
        if self.monitors is not None:
            self.monitors.start()

    def on_fit_batch_end(
        self, batch: Any, outputs: Any, loss: torch.Tensor, should_step: bool
    ) -> None:
        """Log what the monitor has seen since the last line of the log."""
        if self.monitors is None or not should_step or self.optimizer_step % self.log_interval:
            return
        stats = self.monitors.take_recent() | self.training_state()
        parts = [f"{name} {value:.4g}" for name, value in stats.items()]
        logger.info(f"step {self.optimizer_step}: {', '.join(parts)}")

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Sum up what was counted; after validation close the epoch."""
        stats = {"loss": stage_loss}
        for score in self.scores.values():
            stats |= score.summarise()
        if self.monitors is not None:
            stats |= self.monitors.summarise(warn=stage != sb.Stage.TRAIN)
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats | self.training_state()
        elif stage == sb.Stage.TEST:
            self.test_stats = stats
        else:
            assert epoch is not None
            self.end_epoch(epoch, self.train_stats, stats)

    def end_epoch(
        self,
        epoch: int,
        train_stats: Mapping[str, float],
        valid_stats: Mapping[str, float] | None = None,
    ) -> None:
        """Close an epoch: history, ``train_logger``, checkpoint.

        Keeps the ``avg_checkpoints`` most recent checkpoints, and as many of the best by
        ``ranking``; those saved within the epoch are deleted.

        Args:
            epoch: its number, from 1.
            train_stats: means over the epoch, such as ``{"loss": 1.2}``.
            valid_stats: likewise; "WER", "CER", "SER" and "EER" in percent. Stored in the meta.
        """
        train, valid = dict(train_stats), dict(valid_stats or {})
        learning_rate = self._learning_rate()
        if self.rates is not None:
            self.rates.anneal(valid["loss"])
            train |= self.rates.reported(self._optimizers(frozen_too=True))
        self._measure_memory()
        stats = {"lr": learning_rate, "train": train, "valid": valid}
        self.history.add_epoch(epoch, self.optimizer_step, stats)
        if hasattr(self.hparams, "train_logger"):
            # On every rank: the logger writes on rank 0 only, and broadcasts.
            self.hparams.train_logger.log_stats(
                {"epoch": epoch, "lr": learning_rate, "steps": self.optimizer_step},
                train_stats=train,
                valid_stats=valid,
            )
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch, RANKING: self.ranking, **valid},
                num_to_keep=self.continuation.averaged,
                max_keys=[key for order, key in self.ranking.items() if order == "max_key"],
                min_keys=[key for order, key in self.ranking.items() if order == "min_key"],
                ckpt_predicate=is_end_of_epoch,
            )
            self.checkpointer.delete_checkpoints(  # those within the epoch have served
                num_to_keep=0, ckpt_predicate=lambda checkpoint: not is_end_of_epoch(checkpoint)
            )

    # ---- training -------------------------------------------------------------------------------

    def fit_on(self, data: AudioData) -> None:
        """`fit`: as many epochs as ``epoch_counter`` says, each with a validation at its end."""
        self.fit(
            self.hparams.epoch_counter,
            data.datasets.train,
            data.datasets.valid,
            train_loader_kwargs=data.train_loader,
            valid_loader_kwargs=data.eval_loader,
        )

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
            self.train_sampler: Any = self.continuation.seeded(train_set, self.train_sampler)
            tell_ranks_apart(self.continuation.seed)
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
        """The epochs; tells of those without a step, and of batches that made none."""
        for epoch in self.continuation.epochs_to_do(epoch_counter):
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
        self.continuation.initialise()
        self._compile()
        self._wrap_distributed()
        self.init_optimizers()
        self.continuation.resume()
        self.statistics = MovingStatistics(self.modules)  # DDP may have replaced batch norms

    def init_optimizers(self) -> None:
        """One optimizer, and one for a second stage; or one for each part of a rate of its own."""
        if self.rates is None:
            super().init_optimizers()
            if self.second_stage is not None:
                self.second_stage.add_optimizer(self)
            return
        self.optimizers_dict = self.rates.optimizers(self.remove_vector_weight_decay)
        for name, optimizer in self.optimizers_dict.items():
            if self.checkpointer is not None:
                self.checkpointer.add_recoverable(f"{name}_optimizer", optimizer)

    def schedule_learning_rate(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """As in the base, in the first stage; or as the `rates` say."""
        if self.rates is not None:
            self.rates.set(optimizers, self.epoch)
        elif self.second_stage is None or not self.second_stage.begun(self.epoch):
            super().schedule_learning_rate(optimizers)

    def freeze_optimizers(
        self, optimizers: dict[str, torch.optim.Optimizer]
    ) -> dict[str, torch.optim.Optimizer]:
        """Of two stages, the optimizer of the one that the epoch is in; otherwise all."""
        if self.second_stage is None:
            return optimizers
        return self.second_stage.at_work(optimizers, self.epoch)

    def start_epoch(self, epoch: int, loader: DataLoader | LoopedLoader) -> None:
        """Called when an epoch is about to read its first batch, or the first that is left."""
        self.epoch = epoch
        if self.second_stage is not None:
            self.second_stage.start_epoch(epoch, self.optimizers_dict)
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
        if loaded := self.continuation.load_best(max_key, min_key):
            self.averaged_checkpoints = loaded

    def evaluate_batch(self, batch: Any, stage: sb.Stage) -> torch.Tensor:
        """As in the base, and times the work for the real-time factor."""
        started = time.perf_counter()
        loss = super().evaluate_batch(batch, stage)
        seconds = time.perf_counter() - started
        self.evaluated.add(batch, self.batch_seconds, seconds)
        return loss

    def evaluate_all(
        self, test_sets: Mapping[str, Any], loader_kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, float], float]:
        """Score every test set with the best checkpoints and write the details.

        Args:
            test_sets: name → data.
            loader_kwargs: of the DataLoader.

        Returns:
            metrics (``SET_SCORE`` in percent, and the `headlines` of the first set) and the
            real-time factor over all sets.
        """
        metrics: dict[str, float] = {}
        if not test_sets:
            logger.warning("There is no test set: nothing is tested")
        for name, data in test_sets.items():
            self.evaluate(data, **self.ranking, test_loader_kwargs=dict(loader_kwargs))
            self.test_sets.add(name, data, self.evaluated)
            self._enter(metrics, name, self.test_stats)
            for score in self.scores.values():
                self._enter(self.test_sets.intervals, name, score.intervals())
            if self.output_folder is not None and if_main_process():
                for score in self.scores.values():
                    score.write(name, self.output_folder, single=len(test_sets) == 1)
        return metrics, self.test_sets.real_time_factor

    def _enter(self, figures: dict[str, Any], test_set: str, found: Mapping[str, Any]) -> None:
        """Adds what was found in a test set; of the first one, as `headlines`, too."""
        figures |= {f"{test_set}_{key.lower()}": value for key, value in found.items()}
        for key, score in self.headlines.items():
            if score in found:
                figures.setdefault(key, found[score])

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
            extra: more entries for ``result.json``, besides those of `extra` and the headlines.

        Returns:
            The content of ``result.json``, on every rank.

        Raises:
            ValueError: hparams has no ``output_folder``.
        """
        if self.output_folder is None:
            raise ValueError("finish() needs an output_folder in the YAML file.")
        self.history.count_time()
        self._measure_memory()
        headlines = {name: metrics[name] for name in self.headlines if name in metrics}
        more = {**self.test_sets.report(), **self.extra, **headlines, **(extra or {})}
        return write_report(self, self.output_folder, metrics, real_time_factor, more)

    # ---- checkpoints ----------------------------------------------------------------------------

    def _train_loader_specifics(self, dataset: Any, loader_kwargs: dict[str, Any]) -> Any:
        """Options of the train loader, whose order `EpochOrder` makes, under DDP and without."""
        if isinstance(dataset, IterableDataset):
            return super()._train_loader_specifics(dataset, loader_kwargs)
        return with_order(loader_kwargs, dataset, self.continuation.seed, lambda: self.step)

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
        # The next epoch begins, or this one again.
        if end_of_epoch or not self.continuation.position_is_saved:
            self.step = 0
            self.avg_train_loss = 0.0
