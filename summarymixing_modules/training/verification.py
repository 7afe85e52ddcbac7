"""Speaker verification by probes: trained to tell speakers apart, tested on trials of others.

Shape suffixes: B batch, E embedding, K training speakers.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.metric_stats import EER, minDCF
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.data.batching import EmptyBatch, collate
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.labels import UNSEEN
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.data.voxceleb import Trial
from summarymixing_modules.training.probing import ProbingBrain

logger = logging.getLogger(__name__)


def collate_crops(examples: list[dict[str, Any]], samples: int) -> PaddedBatch | EmptyBatch:
    """As `collate`, with a random crop of every recording; short ones stay whole, padded.

    Args:
        examples: of a dataset.
        samples: length of a crop.
    """
    return collate([{**example, "sig": _crop(example["sig"], samples)} for example in examples])


def _crop(sig: Tensor | None, samples: int) -> Tensor | None:
    if sig is None or len(sig) <= samples:
        return sig
    start = int(torch.randint(len(sig) - samples + 1, ()))
    return sig[start : start + samples]


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
        scored = [t for t in trials if t.one in known and t.other in known]
        if len(scored) < len(trials):
            logger.warning(
                f"{len(trials) - len(scored)} of {len(trials)} trials left out: a recording could "
                "not be read (see bad_audio.csv), or --debug cut the evaluation short"
            )
        scores = [float(known[t.one] @ known[t.other]) for t in scored]
        if self.output_folder is not None and if_main_process():
            _write_scores(self.output_folder / "scores.txt", scored, scores)
        both = len({trial.same for trial in scored}) == 2
        eer, min_dcf = (
            (math.nan, math.nan) if self.debug and not both else error_rates(scored, scores)
        )
        metrics = {"test_eer": eer, "test_min_dcf": min_dcf, "scored_trials": float(len(scored))}
        logger.info(f"EER: {eer:.2f} %, minDCF: {min_dcf:.3f} on {len(scored)} trials")
        return metrics


def error_rates(trials: Sequence[Trial], scores: Sequence[float]) -> tuple[float, float]:
    """The equal error rate in percent, and the minimal detection cost.

    Args:
        trials: what is true.
        scores: of the trials; higher = more likely one speaker.

    Raises:
        ManifestError: there are no trials of one speaker, or none of two.
    """
    pairs = list(zip(trials, scores, strict=True))
    same = torch.tensor([score for trial, score in pairs if trial.same])
    different = torch.tensor([score for trial, score in pairs if not trial.same])
    if not len(same) or not len(different):
        raise ManifestError(
            f"{len(same)} trials of one speaker and {len(different)} of two can be scored: both "
            "kinds are needed for an equal error rate"
        )
    return 100 * EER(same, different)[0], float(minDCF(same, different)[0])


def _write_scores(file: Path, trials: Sequence[Trial], scores: Sequence[float]) -> None:
    pairs = zip(trials, scores, strict=True)
    lines = [f"{int(t.same)} {t.one} {t.other} {score:.6f}\n" for t, score in pairs]
    write_atomically(file, "".join(lines))
