"""The loss of classifiers of utterances, of one or more tasks at once.

Shape suffixes: B batch, N classes, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.data.labels import UNSEEN


def class_loss(
    predictions: Sequence[Tensor], targets_BK: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Sum over tasks of the mean cross-entropy; utterances of unseen classes have no part in it.

    Args:
        predictions: log-probabilities (B, N) of every task.
        targets_BK: classes; `UNSEEN` for one that has no number.
        label_smoothing: part of a target that all classes share alike.
    """
    losses = [
        # Log-probabilities are scores like any: softmax leaves them as they are.
        F.cross_entropy(
            scores_BN,
            targets_B,
            ignore_index=UNSEEN,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        / (targets_B != UNSEEN).sum().clamp(min=1)
        for scores_BN, targets_B in zip(predictions, targets_BK.unbind(dim=1), strict=True)
    ]
    return torch.stack(losses).sum()
