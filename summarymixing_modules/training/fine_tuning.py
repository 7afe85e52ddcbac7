"""Fine-tuning of a pre-trained encoder with CTC: two optimizers, for the head and for the encoder.

Settings: arXiv 2409.02596.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from speechbrain.nnet.schedulers import LinearWarmupScheduler, NewBobScheduler
from speechbrain.utils.optimizers import rm_vector_weight_decay

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.ctc import CTCBrain

#: Keys that the YAML file of other recipes has; here the encoder says them.
MODEL_KEYS = frozenset({"compute_features", "encoder_module", "init_from"})

Schedule: TypeAlias = NewBobScheduler | LinearWarmupScheduler


class FineTuningBrain(CTCBrain):
    """Brain of the fine-tuning recipe; ``modules.model`` is a ``FineTunedModel``.

    ``opt_class`` makes an optimizer of parameters and ``lr``; there are two, and the second one is
    missing where the encoder is frozen. Without ``training_steps`` the learning rate of each is
    multiplied by its annealing factor after every epoch that lowers the validation loss by less
    than 0.25 % (NewBob); with it, it rises for ``warmup_steps`` and then falls to 0, linearly.

    The best checkpoints are those with the lowest CER: by words, with an hour of speech or less, a
    model that writes nothing (100 %) would beat first attempts, whose insertions count, too.
    """

    ranking: ClassVar[dict[str, str]] = {"min_key": "CER"}

    known_keys: ClassVar[frozenset[str]] = (CTCBrain.known_keys - MODEL_KEYS) | {
        "lr",  # of the head
        "encoder_lr",
        "annealing_factor",  # of the head
        "encoder_annealing_factor",
        "training_steps",  # null: NewBob
        "warmup_steps",
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = self.hparams
        rates = {"head": (settings.lr, settings.annealing_factor)}
        if not self.model.encoder_frozen:
            rates["encoder"] = (settings.encoder_lr, settings.encoder_annealing_factor)
        self.schedules: dict[str, Schedule] = {
            name: _schedule(rate, factor, settings.training_steps, settings.warmup_steps)
            for name, (rate, factor) in rates.items()
        }
        if self.checkpointer is not None:
            for name, schedule in self.schedules.items():
                self.checkpointer.add_recoverable(f"{name}_schedule", schedule)

    def architecture(self) -> dict[str, Any]:
        """That of encoder and head, and what the optimizers' states depend on."""
        keys = ("output_neurons", "head_size", "head_layers", "freeze_encoder", "training_steps")
        own = {key: getattr(self.hparams, key) for key in keys}
        return {**self.model.architecture(), **own}

    def init_optimizers(self) -> None:
        """One optimizer for the head, one for the encoder if it is trained."""
        assert self.opt_class is not None
        parts = {"head": (self.model.output, self.hparams.lr)}
        if "encoder" in self.schedules:
            parts["encoder"] = (self.model.encoder_parts(), self.hparams.encoder_lr)
        self.optimizers_dict = {}
        for name, (part, rate) in parts.items():
            decayless = self.remove_vector_weight_decay
            parameters = rm_vector_weight_decay(part) if decayless else part.parameters()
            self.optimizers_dict[name] = self.opt_class(parameters, lr=rate)
            if self.checkpointer is not None:
                self.checkpointer.add_recoverable(f"{name}_optimizer", self.optimizers_dict[name])

    def schedule_learning_rate(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Gives every optimizer the learning rate of the coming step."""
        for name, optimizer in optimizers.items():
            schedule = self.schedules[name]
            if isinstance(schedule, LinearWarmupScheduler):
                schedule(optimizer)
                continue
            for group in optimizer.param_groups:
                group["lr"] = schedule.hyperparam_value

    def end_epoch(
        self,
        epoch: int,
        train_stats: Mapping[str, float],
        valid_stats: Mapping[str, float] | None = None,
    ) -> None:
        """Anneals and closes the epoch; reports the encoder's learning rate in it, too."""
        assert valid_stats is not None
        stats = dict(train_stats)
        for schedule in self.schedules.values():
            if isinstance(schedule, NewBobScheduler):
                schedule(valid_stats["loss"])  # used by the next step
        if "encoder" in self.schedules:
            stats["encoder_lr"] = self.optimizers_dict["encoder"].param_groups[0]["lr"]
        super().end_epoch(epoch, stats, valid_stats)


def _schedule(rate: float, factor: float, steps: int | None, warmup: int) -> Schedule:
    if steps is None:
        return NewBobScheduler(rate, factor)
    return LinearWarmupScheduler(rate, warmup, steps)


def check_settings(hparams: Mapping[str, Any], overrides: Collection[str]) -> None:
    """Refuses settings that mean nothing, and flags that would be ignored.

    Args:
        hparams: of the recipe.
        overrides: keys that the command line gives.

    Raises:
        InputError: names the flag and the remedy.
    """
    annealing = ["annealing_factor", "encoder_annealing_factor"]
    useless = [("without --training_steps", ["warmup_steps"])]
    if hparams["training_steps"] is not None:
        useless = [("with --training_steps", annealing)]
    if hparams["freeze_encoder"]:
        useless.append(("with --freeze_encoder=True", ["encoder_lr", annealing[1]]))
    for when, flags in useless:
        if given := [flag for flag in flags if flag in overrides]:
            raise InputError(f"--{given[0]} has no effect {when}: leave it out.")
    if hparams["from_scratch"] and not hparams["freeze_encoder"] and "encoder_lr" not in overrides:
        raise InputError(
            f"--from_scratch=True draws the encoder's weights anew, and encoder_lr="
            f"{hparams['encoder_lr']} is for weights that are trained already: give --encoder_lr, "
            "a rate of training from scratch."
        )
    for key in ("lr", "encoder_lr", "annealing_factor", "encoder_annealing_factor"):
        if not hparams[key] > 0:
            raise InputError(f"--{key}={hparams[key]} must be above 0.")
