"""Self-supervised training with BEST-RQ, and monitors that tell when it collapses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from speechbrain.utils.distributed import ddp_all_reduce
from speechbrain.utils.logger import get_logger

from summarymixing_modules.models.best_rq import BestRQOutput
from summarymixing_modules.training.pretraining import PretrainingBrain

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


class BestRQBrain(PretrainingBrain):
    """Brain of BEST-RQ recipes; ``modules.model`` is a ``BestRQModel``."""

    architecture_keys: ClassVar[tuple[str, ...]] = (
        *PretrainingBrain.architecture_keys,
        "codes",
        "codebooks",
    )

    def make_monitor(self) -> CodeMonitor:
        """Counts codes and hits."""
        return CodeMonitor(self.model.codes)

    def warn(self, stats: Mapping[str, float]) -> None:
        """Warns when nearly all targets are one code."""
        if stats["most_frequent"] > 100 * COLLAPSED:
            logger.warning(
                f"{stats['most_frequent']:.0f} % of the targets are one code: the features hold "
                "next to nothing (silence, wrong normalisation?), and there is nothing to learn."
            )
