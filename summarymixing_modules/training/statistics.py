"""Moving statistics that a forward pass changes, so that a bad batch can be undone in them too."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.processing.features import InputNormalization
from torch.nn.modules.batchnorm import _NormBase


class MovingStatistics:
    """The statistics that batch and input normalization update while they compute.

    The loss is known only after they have been updated: without undoing it, one batch of NaN would
    make every later batch NaN.

    Args:
        modules: where to look for such layers.
    """

    def __init__(self, modules: torch.nn.Module) -> None:
        self._batch_norms = [
            m for m in modules.modules() if isinstance(m, _NormBase) and m.track_running_stats
        ]
        self._input_norms = [m for m in modules.modules() if isinstance(m, InputNormalization)]
        self._buffers: list[list[torch.Tensor]] = []
        self._inputs: list[tuple[Any, torch.Tensor, torch.Tensor]] = []

    def snapshot(self) -> None:
        """Remember the statistics of now."""
        # Batch normalization writes into its buffers; input normalization makes new tensors.
        self._buffers = [[b.clone() for b in norm.buffers()] for norm in self._batch_norms]
        self._inputs = [(n.count, n.glob_mean, n.glob_std) for n in self._input_norms]

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the last snapshot; does nothing before the first."""
        for norm, saved in zip(self._batch_norms, self._buffers, strict=False):
            for buffer, old in zip(norm.buffers(), saved, strict=True):
                buffer.copy_(old)
        for norm, (count, mean, std) in zip(self._input_norms, self._inputs, strict=False):
            norm.count, norm.glob_mean, norm.glob_std = count, mean, std
