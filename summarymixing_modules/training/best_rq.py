"""Self-supervised training with BEST-RQ, and monitors that tell when it collapses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import ddp_all_reduce
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.models.best_rq import BestRQOutput
from summarymixing_modules.training.features import FeatureBrain

logger = get_logger(__name__)

COLLAPSED = 0.9  # share of predictions that are one code, above which a warning is due


class CodeMonitor:
    """Accuracy of the predictions and use of the codes over a stage, on all ranks.

    Args:
        codes: V.
    """

    def __init__(self, codes: int) -> None:
        self.counts_V = torch.zeros(codes, dtype=torch.float64)
        self.correct = self.total = 0.0

    def append(self, output: BestRQOutput) -> None:
        """Counts a batch."""
        codes = output.codes_MQ.flatten().cpu()
        self.counts_V += torch.bincount(codes, minlength=len(self.counts_V))
        self.correct += float(output.correct_MQ.sum())
        self.total += output.correct_MQ.numel()

    def summarise(self, device: str) -> dict[str, float]:
        """Percentages and counts; call it on every rank.

        Returns:
            ``accuracy`` and ``most_frequent``, the share of the commonest code, in percent: a model
            that has learnt anything is above it. ``entropy`` of the codes in bits; ``codes`` used.
        """
        own = torch.cat([self.counts_V, torch.tensor([self.correct, self.total])])
        summed = ddp_all_reduce(own.to(device), torch.distributed.ReduceOp.SUM).cpu()
        counts_V, correct, total = summed[:-2], float(summed[-2]), max(float(summed[-1]), 1.0)
        share_V = counts_V / counts_V.sum().clamp(min=1)
        return {
            "accuracy": 100 * correct / total,
            "most_frequent": 100 * float(share_V.max()),
            "entropy": float(torch.special.entr(share_V).sum() / torch.log(torch.tensor(2.0))),
            "codes": float((counts_V > 0).sum()),
        }


class BestRQBrain(FeatureBrain):
    """Brain of BEST-RQ recipes; ``modules.model`` is a ``BestRQModel``."""

    ranking = {"max_key": "accuracy"}
    architecture_keys: ClassVar[tuple[str, ...]] = (
        *FeatureBrain.architecture_keys,
        "codes",
        "codebooks",
    )

    def compute_forward(self, batch: Any, stage: sb.Stage) -> BestRQOutput:
        """Hides, encodes and predicts a batch."""
        batch = batch.to(self.device)
        samples_BL, share_B = batch.sig
        features_BTF, lengths_B = self.features(samples_BL, share_B, stage)
        if stage == sb.Stage.TRAIN:
            return self.modules.model(features_BTF, lengths_B)
        cuda = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):  # the same masks in every evaluation
            torch.manual_seed(0)
            return self.modules.model(features_BTF, lengths_B)

    def compute_objectives(self, predictions: BestRQOutput, batch: Any, stage: sb.Stage) -> Tensor:
        """The loss; keeps count of codes and hits."""
        self.monitor.append(predictions)
        return predictions.loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh counts."""
        self.monitor = CodeMonitor(self.model.codes)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage, warns of a collapse; after validation closes the epoch."""
        stats = {"loss": stage_loss, **self.monitor.summarise(self.device)}
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        if stats["most_frequent"] > 100 * COLLAPSED:
            logger.warning(
                f"{stats['most_frequent']:.0f} % of the targets are one code: the features hold "
                "next to nothing (silence, wrong normalisation?), and there is nothing to learn."
            )
        if stage == sb.Stage.VALID:
            assert epoch is not None
            self.end_epoch(epoch, self.train_stats, stats)
        else:
            self.test_stats = stats

    def evaluate_all(
        self, data: DynamicItemDataset, loader_kwargs: Mapping[str, Any]
    ) -> dict[str, float]:
        """Metrics of the best checkpoints on the validation set, ``valid_accuracy`` and others."""
        self.evaluate(data, **self.ranking, test_loader_kwargs=dict(loader_kwargs))
        return {f"valid_{name}": value for name, value in self.test_stats.items()}
