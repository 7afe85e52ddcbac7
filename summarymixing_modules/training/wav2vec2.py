"""Self-supervised training with wav2vec 2.0, and monitors that tell when it collapses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.models.ssl.wav2vec2 import Wav2Vec2Output
from summarymixing_modules.training.pretraining import Monitor, PretrainingBrain

logger = get_logger(__name__)

COLLAPSED = 4.0  # perplexity of a codebook below which a warning is due


class ContrastMonitor(Monitor):
    """Accuracy of the comparisons and use of the codebooks over a stage, on all ranks.

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


class Wav2Vec2Brain(PretrainingBrain):
    """Brain of wav2vec 2.0 recipes; ``modules.model`` is a ``Wav2Vec2Model``."""

    architecture_keys: ClassVar[tuple[str, ...]] = (
        *PretrainingBrain.architecture_keys,
        "frontend_type",
        "codes",
        "codebooks",
        "code_dim",
    )

    def make_monitor(self) -> ContrastMonitor:
        """Counts codes, hits and what guessing would hit."""
        quantiser = self.model.quantiser
        return ContrastMonitor(quantiser.codebooks, quantiser.codes, self.device)

    def warn(self, stats: Mapping[str, float]) -> None:
        """Warns when a codebook has hardly any code left."""
        for name, value in stats.items():
            if name.startswith("perplexity") and value < COLLAPSED:
                logger.warning(
                    f"{name} is {value:.1f}: next to nothing is left of that codebook, so frames "
                    "are told apart by little, whatever the accuracy. Train with a lower --lr, a "
                    "longer --warmup_steps or a higher --diversity_weight."
                )

    def training_state(self) -> dict[str, float]:
        """The quantiser's temperature."""
        return {"temperature": self.model.quantiser.temperature}

    def on_fit_start(self) -> None:
        """Loads the last checkpoint; the quantiser's temperature follows from its step."""
        super().on_fit_start()
        self.model.quantiser.set_step(self.optimizer_step)

    def on_optimizer_step(self) -> None:
        """Lowers the quantiser's temperature."""
        self.model.quantiser.set_step(self.optimizer_step)
