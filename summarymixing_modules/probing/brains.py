"""The Brains of probes on a frozen encoder, with a rate of its own for the layer weights.

Settings: MP3S (arXiv 2308.14456).

Shape suffixes: B batch, T frames, L samples, V vocabulary, N classes, E embedding, K training
speakers.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.nnet.schedulers import LinearScheduler, NewBobScheduler
from speechbrain.utils.distributed import if_main_process
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.data.corpora.voxceleb import Trial
from summarymixing_modules.data.labels import UNSEEN
from summarymixing_modules.models.acoustic import HiddenStates
from summarymixing_modules.probing.encoder import FrozenEncoder
from summarymixing_modules.probing.verification import error_rates, write_scores
from summarymixing_modules.training.classification import ClassificationBrain
from summarymixing_modules.training.ctc import CTCBrain
from summarymixing_modules.training.scored import CountedBrain

logger = logging.getLogger(__name__)

#: Keys that the YAML file of other recipes has; here the encoder says them, or nothing does.
MODEL_KEYS = frozenset(
    {
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


class ProbingBrain(CountedBrain):
    """Base of the probes' Brains; ``modules`` holds ``encoder`` (frozen) and ``model`` (a `Probe`).

    The head and the layer weights have an Adam each. After every epoch that lowers the validation
    loss by less than ``improvement_threshold``, their rates are multiplied by their annealing
    factors (NewBob); with ``final_lr``, the head's falls linearly instead.
    """

    known_keys: ClassVar[frozenset[str]] = (CountedBrain.known_keys - MODEL_KEYS) | PROBING_KEYS
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

    def encoder_frames(self, samples_N: Tensor) -> Tensor:
        """Frames of the hidden states for numbers of samples."""
        return self.modules.encoder.frames(samples_N)

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


class VerificationBrain(ProbingBrain):
    """Brain of probes for speakers; the probe's head is a ``SpeakerHead``.

    The loss is cross-entropy with an additive angular margin (Xiang et al., arXiv 1906.07317).
    Checkpoints are ranked by the share of validation utterances given to a wrong training speaker.
    """

    known_keys: ClassVar[frozenset[str]] = ProbingBrain.known_keys | {"margin", "scale"}
    ranking: ClassVar[dict[str, str]] = {"min_key": "speaker_error"}

    @functools.cached_property
    def _loss(self) -> LogSoftmaxWrapper:
        return LogSoftmaxWrapper(AdditiveAngularMargin(self.hparams.margin, self.hparams.scale))

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Tensor:
        """Embeddings (B, E)."""
        return self.modules.model(self.hidden_states(batch.to(self.device)))

    def compute_objectives(self, predictions: Tensor, batch: Any, stage: sb.Stage) -> Tensor:
        """The loss; while testing there is none: speakers of trials have no class."""
        if stage == sb.Stage.TEST:
            unit_BE = F.normalize(predictions.float(), dim=-1).cpu()
            self._embeddings.update(zip(batch.id, unit_BE, strict=True))
            return predictions.new_zeros(())
        targets_B = batch.targets.data[:, 0]
        cosines_BK = self.model.head.cosines(predictions)
        if stage == sb.Stage.VALID:
            self._right += int((cosines_BK.argmax(dim=-1) == targets_B).sum())
            self._total += len(targets_B)
        known_B = targets_B != UNSEEN
        if not bool(known_B.any()):
            return predictions.new_tensor(torch.nan)
        return self._loss(cosines_BK[known_B][:, None], targets_B[known_B][:, None])

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Nothing counted or embedded yet."""
        self._right = self._total = 0
        self._embeddings: dict[str, Tensor] = {}

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage; after validation closes the epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
        elif stage == sb.Stage.VALID:
            assert epoch is not None
            error = 100 * (1 - self._right / max(1, self._total))
            stats = {"loss": stage_loss, "speaker_error": error}
            self.end_epoch(epoch, {"loss": self.train_loss}, stats)

    def evaluate_trials(
        self,
        data: DynamicItemDataset,
        trials: Sequence[Trial],
        loader_kwargs: Mapping[str, Any],
    ) -> dict[str, float]:
        """Scores trials with the best checkpoint; writes ``scores.txt``.

        Args:
            data: every utterance of the trials once.
            trials: to score, by the cosine of two embeddings.
            loader_kwargs: of the DataLoader.

        Returns:
            ``test_eer`` and ``test_min_dcf`` (both costs 1, target probability 0.01), see
            `error_rates`; ``scored_trials``.
        """
        self.evaluate(data, **self.ranking, test_loader_kwargs=dict(loader_kwargs))
        known = self._embeddings
        self.count_test_set("trials", data, len(known))
        scored = [t for t in trials if t.one in known and t.other in known]
        if len(scored) < len(trials):
            logger.warning(
                f"{len(trials) - len(scored)} of {len(trials)} trials left out: a recording could "
                "not be read (see bad_audio.csv), or --debug cut the evaluation short"
            )
        scores = [float(known[t.one] @ known[t.other]) for t in scored]
        if self.output_folder is not None and if_main_process():
            write_scores(self.output_folder / "scores.txt", scored, scores)
        both = len({trial.same for trial in scored}) == 2
        eer, min_dcf = (
            (math.nan, math.nan) if self.debug and not both else error_rates(scored, scores)
        )
        metrics = {"test_eer": eer, "test_min_dcf": min_dcf, "scored_trials": float(len(scored))}
        logger.info(f"EER: {eer:.2f} %, minDCF: {min_dcf:.3f} on {len(scored)} trials")
        return metrics


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
