"""Training of probes on a frozen encoder, with a rate of its own for the layer weights.

Settings: MP3S (arXiv 2308.14456).

Shape suffixes: B batch, T frames, L samples, V vocabulary, K tasks, N classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.nnet.schedulers import LinearScheduler, NewBobScheduler
from torch import Tensor

from summarymixing_modules.models.acoustic import HiddenStates
from summarymixing_modules.models.probe import FrozenEncoder
from summarymixing_modules.training.classification import ClassificationBrain
from summarymixing_modules.training.ctc import CTCBrain
from summarymixing_modules.training.features import FeatureBrain

#: Keys that the YAML file of other recipes has; here the encoder says them, or nothing does.
MODEL_KEYS = frozenset(
    {
        "avg_checkpoints",
        "compute_features",
        "dynchunktrain_config_sampler",
        "encoder_module",
        "fea_augment",
        "init_from",
        "wav_augment",
    }
)
PROBING_KEYS = frozenset(
    {
        "task",
        "probe",
        "lr",  # of the head
        "final_lr",  # null: NewBob; else the head's rate falls to it, linearly
        "weights_lr",  # of the layer weights
        "annealing_factor",  # of the head
        "weights_annealing_factor",
        "improvement_threshold",  # of the validation loss, below which NewBob anneals
        "number_of_epochs",
    }
)


class ProbingBrain(FeatureBrain):
    """Base of the probes' Brains; ``modules`` holds ``encoder`` (frozen) and ``model`` (a `Probe`).

    The head and the layer weights have an Adam each. After every epoch that lowers the validation
    loss by less than ``improvement_threshold``, their rates are multiplied by their annealing
    factors (NewBob); with ``final_lr``, the head's falls linearly instead.
    """

    known_keys: ClassVar[frozenset[str]] = (FeatureBrain.known_keys - MODEL_KEYS) | PROBING_KEYS
    architecture_keys: ClassVar[tuple[str, ...]] = (
        "task",
        "probe",
        "head_options",
        "outputs",
        "encoder_digest",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = self.hparams
        threshold = settings.improvement_threshold
        self.schedules: dict[str, NewBobScheduler | LinearScheduler] = {
            "head": NewBobScheduler(settings.lr, settings.annealing_factor, threshold),
            "weights": NewBobScheduler(
                settings.weights_lr, settings.weights_annealing_factor, threshold
            ),
        }
        if settings.final_lr is not None:
            epochs = settings.number_of_epochs
            self.schedules["head"] = LinearScheduler(settings.lr, settings.final_lr, epochs)
        for name, schedule in self.schedules.items():
            if self.checkpointer is not None and isinstance(schedule, NewBobScheduler):
                self.checkpointer.add_recoverable(f"{name}_schedule", schedule)

    def hidden_states(self, batch: Any) -> HiddenStates:
        """What the frozen encoder makes of a batch's audio."""
        samples_BL, share_B = batch.sig
        lengths_B = (share_B * samples_BL.shape[1]).round().long()
        return self.modules.encoder(samples_BL, lengths_B)

    def init_optimizers(self) -> None:
        """An optimizer for the head and one for the layer weights."""
        parts = {
            "head": (self.model.head, self.hparams.lr),
            "weights": (self.model.weighted_sum, self.hparams.weights_lr),
        }
        self.optimizers_dict = {}
        for name, (part, rate) in parts.items():
            self.optimizers_dict[name] = torch.optim.Adam(part.parameters(), lr=rate)
            if self.checkpointer is not None:
                self.checkpointer.add_recoverable(f"{name}_optimizer", self.optimizers_dict[name])

    def schedule_learning_rate(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Gives both optimizers the rate of the epoch at hand."""
        for name, optimizer in optimizers.items():
            schedule = self.schedules[name]
            if isinstance(schedule, NewBobScheduler):
                rate = schedule.hyperparam_value
            else:
                rates = schedule.value_at_epoch
                rate = rates[min(self.epoch, len(rates)) - 1]
            for group in optimizer.param_groups:
                group["lr"] = rate

    def end_epoch(
        self,
        epoch: int,
        train_stats: Mapping[str, float],
        valid_stats: Mapping[str, float] | None = None,
    ) -> None:
        """Anneals and closes the epoch; the rate of the layer weights is reported with it."""
        assert valid_stats is not None
        for schedule in self.schedules.values():
            if isinstance(schedule, NewBobScheduler):
                schedule(valid_stats["loss"])  # used by the next step
        rate = self.optimizers_dict["weights"].param_groups[0]["lr"]
        super().end_epoch(epoch, {**train_stats, "weights_lr": rate}, valid_stats)

    def layer_weights(self) -> list[float]:
        """The share of every hidden state in the sum; the input of the first layer comes first."""
        return self.model.weighted_sum.shares()


class CTCProbingBrain(ProbingBrain, CTCBrain):
    """Brain of probes for transcripts; scored as recognisers are."""

    known_keys: ClassVar[frozenset[str]] = (CTCBrain.known_keys - MODEL_KEYS) | PROBING_KEYS

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) of a batch and the real frames of each utterance."""
        hidden = self.hidden_states(batch.to(self.device))
        return self.modules.model(hidden).float(), hidden.lengths_B


class ClassProbingBrain(ProbingBrain, ClassificationBrain):
    """Brain of probes for one class an utterance; scored as classifiers are."""

    known_keys: ClassVar[frozenset[str]] = (
        ClassificationBrain.known_keys - MODEL_KEYS - {"classes", "pooling", "joint"}
    ) | PROBING_KEYS

    def compute_forward(self, batch: Any, stage: sb.Stage) -> list[Tensor]:
        """Log-probabilities (B, N) of the one task there is."""
        hidden = self.hidden_states(batch.to(self.device))
        return [self.modules.model(hidden).float().log_softmax(dim=-1)]


def unchanged(encoder: FrozenEncoder, digest: str) -> None:
    """Check that training has left the encoder as it was.

    Args:
        encoder: after training.
        digest: of before.

    Raises:
        RuntimeError: it has changed, which would make the result worthless.
    """
    if encoder.digest() != digest:
        raise RuntimeError("the frozen encoder has changed in training: do not use this result.")
