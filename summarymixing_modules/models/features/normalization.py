"""What SpeechBrain's input normalisation lacks: exact lengths, and statistics that stay."""

from __future__ import annotations

from typing import Any

from speechbrain.processing.features import InputNormalization
from torch import Tensor


class FixedNormalization(InputNormalization):
    """SpeechBrain's, in eval mode for ever: no training changes its statistics.

    They are buffers here: they are in the state dict and move with the module.

    Args:
        **settings: those of ``InputNormalization``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in ("glob_mean", "glob_std"):
            statistic = self.__dict__.pop(name)
            self.register_buffer(name, statistic)
        self.eval()

    def train(self, mode: bool = True) -> FixedNormalization:
        """Stays in eval mode, whatever ``mode`` says."""
        del mode
        super().train(False)
        return self

    def forward(self, x: Tensor, lengths: Tensor | None = None, epoch: int | None = None) -> Tensor:
        """See ``InputNormalization``; ``epoch`` is not looked at."""
        if self.glob_mean.device != x.device:  # where a checkpoint was loaded to
            self.to(x.device)
        return super().forward(x, lengths, epoch)


def inner_share(lengths_B: Tensor, frames: int) -> Tensor:
    """Shares of real frames for ``InputNormalization``, which multiplies them by T again.

    Rounded up, the product of a true share lets a padded frame in (for 4 % of lengths and T); the
    middle of the last real frame is on the safe side.

    Args:
        lengths_B: real frames.
        frames: T.
    """
    return (lengths_B - 0.5) / frames
