"""Self-supervised training with BEST-RQ, and monitors that tell when it collapses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.models.ssl.best_rq import BestRQOutput
from summarymixing_modules.training.pretraining import Monitor, PretrainingBrain

logger = get_logger(__name__)

COLLAPSED = 0.9  # share of predictions that are one code, above which a warning is due


class CodeMonitor(Monitor):
    """Accuracy of the predictions and use of the codes over a stage, on all ranks.

    Args:
        codes: V.
        device: where the outputs are.
    """

    def __init__(self, codes: int, device: str) -> None:
        super().__init__(codes + 1, device)
        self.counts_V, self.correct = self.sums_N[:codes], self.sums_N[codes:]

    def append(self, output: BestRQOutput) -> None:
        """Counts a batch."""
        codes = output.codes_MQ.flatten()
        self.counts_V.index_add_(0, codes, self.counts_V.new_ones(len(codes)))
        self.correct += output.correct_MQ.sum()

    def describe(self, sums_N: Tensor) -> dict[str, float]:
        """Percentages and counts.

        Returns:
            ``accuracy`` and ``most_frequent``, the share of the commonest code, in percent: a model
            that has learnt anything is above it. ``entropy`` of the codes in bits; ``codes`` used.
        """
        counts_V, correct = sums_N[:-1], float(sums_N[-1])
        total = counts_V.sum().clamp(min=1)
        share_V = counts_V / total
        return {
            "accuracy": 100 * correct / float(total),
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
        return CodeMonitor(self.model.codes, self.device)

    def warn(self, stats: Mapping[str, float]) -> None:
        """Warns when nearly all targets are one code."""
        if stats["most_frequent"] > 100 * COLLAPSED:
            logger.warning(
                f"{stats['most_frequent']:.0f} % of the targets are one code: the features hold "
                "next to nothing (silence, wrong normalisation?), and there is nothing to learn."
            )
