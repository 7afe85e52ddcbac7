"""One safe optimizer step: forward, backward, agreement of the ranks, clipping, update."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_all_reduce
from speechbrain.utils.logger import get_logger

from summarymixing_modules.training.clock import StepClock
from summarymixing_modules.training.guard import StepGuard, is_empty
from summarymixing_modules.training.run.history import TrainHistory
from summarymixing_modules.training.statistics import MovingStatistics

logger = get_logger(__name__)

SCHEDULER_KEYS = ("lr_scheduler", "noam_annealing", "scheduler")
SKIPPED_BATCHES = "skipped_batches.jsonl"
MIN_LOSS_SCALE = 1.0  # an fp16 overflow at or below this loss scale is no matter of scale


@dataclass(frozen=True)
class _Done:
    """A batch whose gradients have been added; the value is the loss as a number."""

    outputs: Any
    loss: torch.Tensor
    value: float


class SafeStepBrain(sb.Brain):
    """SpeechBrain's Brain with steps that cannot spoil the model; the lower half of `SafeBrain`."""

    #: What `batch_frames` counts.
    frame_unit: ClassVar[str] = "frames"

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module] | None = None,
        opt_class: Callable[..., torch.optim.Optimizer] | None = None,
        hparams: Mapping[str, Any] | None = None,
        run_opts: Any = None,
        checkpointer: Any = None,
    ) -> None:
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        if hparams is None:
            self.hparams = SimpleNamespace()
        self.epoch = 0
        #: Batches of the epoch on this rank; None = unknown.
        self.epoch_batches: int | None = None
        self.grad_norm = math.nan
        self.lr_scheduler = self._find_scheduler()
        interval = int(self.option("curve_interval", 10))
        self.history = TrainHistory(interval, self._sum_over_ranks)
        self.log_interval = self._find_log_interval(interval)
        self.clock = StepClock(self.history, self.device)
        self.statistics = MovingStatistics(self.modules)
        folder = self.option("output_folder")
        self.output_folder = Path(folder) if folder is not None else None
        record = self.output_folder / SKIPPED_BATCHES if self.output_folder else None
        self.guard = StepGuard(self.nonfinite_patience, record, self.device)

    def option(self, key: str, default: Any = None) -> Any:
        """An optional key of the YAML file."""
        return getattr(self.hparams, key, default)

    def batch_seconds(self, batch: Any) -> tuple[float, float]:
        """Seconds of audio in a batch, without and with its padding.

        This one knows batches with ``sig`` (samples_BL and relative lengths_B) and a
        ``sample_rate`` in hparams; for others it answers (0, 0).
        """
        rate = self.option("sample_rate")
        if rate is None or not hasattr(batch, "sig"):
            return 0.0, 0.0
        samples_BL, lengths_B = batch.sig
        padded = samples_BL.shape[1] / float(rate)
        return padded * float(lengths_B.sum()), padded * samples_BL.shape[0]

    def batch_frames(self, batch: Any) -> float:
        """Frames that the encoder reads, or tokens, in a batch, without padding; 0 = unknown.

        This one knows ``modules`` with ``features`` and a ``model`` whose front end subsamples, and
        counts to one or two frames per utterance.
        """
        seconds, _ = self.batch_seconds(batch)
        features = getattr(self.modules, "features", None)
        subsampling = getattr(getattr(self.model, "frontend", None), "subsampling", 0)
        if features is None or not (seconds and subsampling):
            return 0.0
        return seconds * self.hparams.sample_rate / (features.hop_length * subsampling)

    @property
    def model(self) -> Any:
        """``modules.model`` without what DDP wraps around it; None if there is no such module."""
        model = getattr(self.modules, "model", None)
        return getattr(model, "module", model)

    def schedule_learning_rate(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Set the learning rate of the coming optimizer step, number ``optimizer_step + 1``.

        The scheduler of hparams, if any, drives the first optimizer. Override for several.

        Raises:
            TypeError: the scheduler is one for the ends of epochs.
        """
        if self.lr_scheduler is None:
            return
        optimizer = next(iter(optimizers.values()))
        arguments = list(inspect.signature(self.lr_scheduler).parameters)
        if arguments == ["opt"]:
            self.lr_scheduler(optimizer)
        elif arguments == ["opt", "num_updates"]:
            self.lr_scheduler(optimizer, self.optimizer_step + 1)
        else:
            raise TypeError(
                f"{type(self.lr_scheduler).__name__} is not made for single optimizer steps (it "
                f"takes {', '.join(arguments)}); call it in on_stage_end, under a key other than "
                f"{', '.join(SCHEDULER_KEYS)}."
            )

    def on_optimizer_step(self) -> None:
        """Called after every step the optimizers really made (moving averages, masks, ...)."""

    def fit_batch(self, batch: Any) -> torch.Tensor:
        """Train on one batch; at the end of an accumulation window, make an optimizer step.

        A window is ``grad_accumulation_factor`` batches; the last one of an epoch may have fewer.
        Its step follows the mean of the batches that it has, and counts as any other. (SpeechBrain
        would throw these batches away.)

        `on_fit_batch_start` sees every batch, empty ones included; `on_fit_batch_end` only those
        that were computed, and its ``should_step`` says whether a step was really made.

        Returns:
            The loss (scalar, on the CPU); NaN if the batch was skipped.
        """
        self.clock.lap("data")
        if self.guard.window_is_full:
            self.guard.open_window(self._next_window())
            self.statistics.snapshot()
        self.guard.watch(batch)
        should_step = self.guard.window_is_full
        self.on_fit_batch_start(batch, should_step)
        done = self._forward_backward(batch, should_step)
        stepped = should_step and self._close_window()
        if done is not None:
            self.on_fit_batch_end(batch, done.outputs, done.loss, stepped)
        self.clock.lap("optimizer" if stepped else "backward")
        return torch.tensor(math.nan if done is None else done.value)

    def optimizers_step(self) -> bool:
        """Clip the gradients, schedule the learning rate, step the optimizers that are not frozen.

        Returns:
            Whether a step was made: not if there is no optimizer or a gradient is not finite.
        """
        optimizers = self._optimizers(frozen_too=False)
        if not optimizers:
            return False
        for optimizer in optimizers.values():
            self.scaler.unscale_(optimizer)
        self.grad_norm = self._clip_gradients(optimizers)
        if self._gradients_are_bad():
            self.scaler.update()  # lowers the loss scale
            return False
        self.clock.lap("backward")
        self.schedule_learning_rate(optimizers)
        for optimizer in optimizers.values():
            self.scaler.step(optimizer)
        self.scaler.update()
        self.optimizer_step += 1
        self.on_optimizer_step()
        self.clock.lap("optimizer")
        self.history.add_step(self.optimizer_step, self._learning_rate(), self.grad_norm)
        if self.optimizer_step % self.log_interval == 0 and self.history.curves["step"]:
            logger.info(self.history.describe_last(self.log_interval, self.frame_unit))
        return True

    def update_average(self, loss: torch.Tensor, avg_loss: float) -> float:
        """Update a running mean of losses; it is NaN, not 0, until the first finite loss."""
        if not torch.isfinite(loss):
            return avg_loss if self.step > 1 else math.nan
        return float(loss) if math.isnan(avg_loss) else super().update_average(loss, avg_loss)

    def _next_window(self) -> int:
        """How many batches the window has that begins with this one."""
        if self.epoch_batches is None:
            return self.grad_accumulation_factor
        left = self.epoch_batches - self.step + 1
        return max(1, min(self.grad_accumulation_factor, left))

    def _forward_backward(self, batch: Any, should_step: bool) -> _Done | None:
        """Add the gradients of one batch; None if the window is lost, before it or by it."""
        if self.guard.spoiled or self._spoils(is_empty(batch), "empty batch", batch):
            return None
        # Before the batch travels: reading a length from a GPU would wait for all its work.
        (audio, padded), frames = self.batch_seconds(batch), self.batch_frames(batch)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            # The ranks agree before any goes backward: DDP's backward pass waits for all of them.
            value = float(loss.detach())
            self.clock.lap("forward")
            if self._spoils(not math.isfinite(value), f"loss is {value}", batch):
                return None
            self.scaler.scale(loss / self.guard.size).backward()
        self.history.add_loss(value)
        self.history.totals["audio_seconds"] += audio
        self.history.totals["padded_seconds"] += padded
        self.history.totals["frames"] += frames
        return _Done(outputs, loss, value)

    def _spoils(self, fault: bool, reason: str, batch: Any = None) -> bool:
        """As `StepGuard.spoils`; what a spoiled window did to the statistics is undone at once."""
        try:
            spoiled = self.guard.spoils(fault, reason, self.optimizer_step + 1, self.epoch, batch)
        finally:  # with too many in a row the training ends, and leaves no NaN behind
            if self.guard.spoiled:
                self.statistics.restore()
        self.history.totals["skipped_steps"] += spoiled
        return spoiled

    def _close_window(self) -> bool:
        """End an accumulation window; returns whether the optimizers made a step."""
        stepped = not self.guard.spoiled and self.optimizers_step()
        if stepped:
            self.guard.window_stepped()
        for optimizer in self._optimizers(frozen_too=True).values():
            optimizer.zero_grad(set_to_none=True)
        return stepped

    def _gradients_are_bad(self) -> bool:
        """Whether the gradients must not be used; tells fp16 overflows from real faults."""
        bad = not math.isfinite(self.grad_norm)
        if self.scaler.is_enabled() and (scale := self.scaler.get_scale()) > MIN_LOSS_SCALE:
            overflow = self.guard.any_rank(bad)
            self.history.totals["overflow_steps"] += overflow
            if overflow:
                logger.info(f"fp16 overflow at loss scale {scale:g}; lowering it, skipping a step.")
            return overflow
        return self._spoils(bad, f"gradient norm is {self.grad_norm}")

    def _clip_gradients(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> float:
        """Clip each optimizer's gradients over all its groups; returns the norm of all before."""
        limit = self.max_grad_norm if self.max_grad_norm > 0 else math.inf
        norms = []
        for optimizer in optimizers.values():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, limit)))
        return math.hypot(*norms)

    def _optimizers(self, frozen_too: bool) -> dict[str, torch.optim.Optimizer]:
        if self.optimizers_dict is None:  # a subclass that makes `self.optimizer` only, or none
            return {"optimizer": self.optimizer} if self.opt_class is not None else {}
        return self.optimizers_dict if frozen_too else self.freeze_optimizers(self.optimizers_dict)

    def _learning_rate(self) -> float:
        for optimizer in self._optimizers(frozen_too=False).values():
            return float(optimizer.param_groups[0]["lr"])
        return math.nan

    def evaluate_batch(self, batch: Any, stage: sb.Stage) -> torch.Tensor:
        """Evaluate a batch; NaN, which no average counts, if it is empty or its loss not finite."""
        if is_empty(batch):
            self.guard.report_evaluation(batch, "empty batch", stage.name, self.epoch)
            return torch.tensor(math.nan)
        loss = super().evaluate_batch(batch, stage)
        if not torch.isfinite(loss):
            self.guard.report_evaluation(batch, f"loss is {loss}", stage.name, self.epoch)
        return loss

    def _sum_over_ranks(self, values: list[float]) -> list[float]:
        summed = ddp_all_reduce(
            torch.tensor(values, device=self.device), torch.distributed.ReduceOp.SUM
        )
        return summed.tolist()

    def _find_log_interval(self, curve_interval: int) -> int:
        found = self.option("log_interval")
        interval = 10 * curve_interval if found is None else int(found)
        if interval < 1 or interval % curve_interval:
            raise ValueError(
                f"log_interval={interval} must be a multiple of curve_interval={curve_interval}: "
                "a line of the log is the mean of some points of the curves."
            )
        return interval

    def _find_scheduler(self) -> Any:
        found = [key for key in SCHEDULER_KEYS if self.option(key) is not None]
        if len(found) > 1:
            raise ValueError(f"The YAML file has several schedulers: {', '.join(found)}. Keep one.")
        return self.option(found[0]) if found else None
