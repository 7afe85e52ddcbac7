"""Monitors of self-supervised training: accuracy, and how much of the codebooks is used.

Shape suffixes: G codebooks, M hidden frames, Q codebooks, V codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from summarymixing_modules.models.ssl.best_rq import BestRQOutput
from summarymixing_modules.models.ssl.wav2vec2 import Wav2Vec2Output
from summarymixing_modules.training.scores.monitors import Monitor

MOST_FREQUENT = 0.9  # share of targets that are one code, above which a warning is due
PERPLEXITY = 4.0  # of a codebook, below which a warning is due


class CodeMonitor(Monitor):
    """Accuracy of the predictions of BEST-RQ and use of the codes over a stage, on all ranks.

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

    def warnings(self, stats: Mapping[str, float]) -> list[str]:
        """Of targets that are nearly all one code."""
        if stats["most_frequent"] <= 100 * MOST_FREQUENT:
            return []
        return [
            f"{stats['most_frequent']:.0f} % of the targets are one code: the features hold next "
            "to nothing (silence, wrong normalisation?), and there is nothing to learn."
        ]


class ContrastMonitor(Monitor):
    """Accuracy of the comparisons of wav2vec 2.0 and use of its codebooks, on all ranks.

    Args:
        codebooks: G.
        codes: V, of each.
        device: where the outputs are.
    """

    def __init__(self, codebooks: int, codes: int, device: str) -> None:
        super().__init__(codebooks * codes + 3, device)
        self.counts_GV = self.sums_N[:-3].view(codebooks, codes)
        self.sums = self.sums_N[-3:]  # correct, chance, contrastive loss

    def append(self, output: Wav2Vec2Output) -> None:
        """Counts a batch."""
        for counts_V, codes_M in zip(self.counts_GV, output.codes_MG.T, strict=True):
            counts_V.index_add_(0, codes_M, counts_V.new_ones(len(codes_M)))
        parts = (output.correct_M, output.chance_M, output.losses_B.detach())
        self.sums += torch.stack([part.double().sum() for part in parts])

    def describe(self, sums_N: Tensor) -> dict[str, float]:
        """Percentages and means.

        Returns:
            ``accuracy``, and ``chance``, what guessing reaches, in percent; ``contrastive``, the
            cross-entropy of a hidden frame in nats; ``perplexity_1`` and so on, e^H of the codes
            that were chosen from each codebook.
        """
        correct, chance, contrastive = (float(value) for value in sums_N[-3:])
        counts_GV = sums_N[:-3].view(self.counts_GV.shape)
        frames_G1 = counts_GV.sum(1, keepdim=True).clamp(min=1)
        perplexity_G = torch.special.entr(counts_GV / frames_G1).sum(1).exp().tolist()
        frames = float(frames_G1[0])
        return {
            "accuracy": 100 * correct / frames,
            "chance": 100 * chance / frames,
            "contrastive": contrastive / frames,
            **{f"perplexity_{index}": value for index, value in enumerate(perplexity_G, 1)},
        }

    def warnings(self, stats: Mapping[str, float]) -> list[str]:
        """Of codebooks that have hardly any code left."""
        return [
            f"{name} is {value:.1f}: next to nothing is left of that codebook, so frames are told "
            "apart by little, whatever the accuracy. Train with a lower --lr, a longer "
            "--warmup_steps or a higher --diversity_weight."
            for name, value in stats.items()
            if name.startswith("perplexity") and value < PERPLEXITY
        ]
