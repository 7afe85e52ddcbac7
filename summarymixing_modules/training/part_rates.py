"""An optimizer and a schedule of its own for each part of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from speechbrain.nnet.schedulers import LinearScheduler, LinearWarmupScheduler, NewBobScheduler
from speechbrain.utils.optimizers import rm_vector_weight_decay
from torch import nn
from torch.optim import Optimizer

Schedule: TypeAlias = NewBobScheduler | LinearWarmupScheduler | LinearScheduler


@dataclass(frozen=True)
class Part:
    """A part of a model that is trained at a rate of its own.

    Attributes:
        module: its parameters.
        lr: at the beginning.
        schedule: NewBob multiplies the rate after every epoch that lowers the validation loss too
            little; LinearWarmup sets it for every step, Linear for every epoch.
        options: of its optimizer alone.
    """

    module: nn.Module
    lr: float
    schedule: Schedule
    options: Mapping[str, float] = field(default_factory=dict)


class PartRates:
    """The parts of a model, their optimizers and schedules.

    Args:
        parts: by name; of the first one the rate is reported as ``lr``, of another as ``NAME_lr``.
        opt_class: makes an optimizer of parameters and ``lr``.
    """

    def __init__(self, parts: Mapping[str, Part], opt_class: Callable[..., Optimizer]) -> None:
        self.parts, self._opt_class = parts, opt_class

    def optimizers(self, vectors_without_decay: bool) -> dict[str, Optimizer]:
        """An optimizer for each part.

        Args:
            vectors_without_decay: biases and the like have no weight decay.
        """
        return {
            name: optimizer_of(
                part.module,
                partial(self._opt_class, lr=part.lr, **part.options),
                vectors_without_decay,
            )
            for name, part in self.parts.items()
        }

    def schedules(self) -> dict[str, Schedule]:
        """Those that have a state to be saved, by the names of their parts."""
        found = {name: part.schedule for name, part in self.parts.items()}
        return {n: s for n, s in found.items() if not isinstance(s, LinearScheduler)}

    def set(self, optimizers: Mapping[str, Optimizer], epoch: int) -> None:
        """Give every optimizer the learning rate of the coming step, which is in an epoch."""
        for name, optimizer in optimizers.items():
            schedule = self.parts[name].schedule
            if isinstance(schedule, LinearWarmupScheduler):
                schedule(optimizer)
                continue
            rate = _rate(schedule, epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate

    def anneal(self, valid_loss: float) -> None:
        """Close an epoch: NewBob compares the validation losses; used by the next step."""
        for part in self.parts.values():
            if isinstance(part.schedule, NewBobScheduler):
                part.schedule(valid_loss)

    def reported(self, optimizers: Mapping[str, Optimizer]) -> dict[str, float]:
        """``NAME_lr`` of all parts but the first."""
        others = list(optimizers.items())[1:]
        return {f"{name}_lr": float(o.param_groups[0]["lr"]) for name, o in others}


def optimizer_of(
    module: nn.Module, make: Callable[..., Optimizer], vectors_without_decay: bool
) -> Optimizer:
    """An optimizer of the parameters of a module.

    Args:
        module: their owner.
        make: parameters → optimizer.
        vectors_without_decay: biases and the like have no weight decay.
    """
    return make(rm_vector_weight_decay(module) if vectors_without_decay else module.parameters())


def _rate(schedule: NewBobScheduler | LinearScheduler, epoch: int) -> float:
    if isinstance(schedule, NewBobScheduler):
        return float(schedule.hyperparam_value)
    rates = schedule.value_at_epoch
    return float(rates[min(epoch, len(rates)) - 1])
