"""Which frames of a batch are hidden: looked up once, where the mask was drawn.

A mask as an index (``x[mask]``) makes PyTorch count its entries, and a CPU wait for a GPU, each
time anew. Masks are drawn on the CPU: there they are counted once, for nothing.

Shape suffixes: B batch, T frames, M hidden frames of the batch, N those of an utterance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HiddenFrames:
    """The hidden frames of a batch, one utterance after the other.

    Attributes:
        rows_M: their utterances.
        frames_M: which frames of these they are.
        places_M: which hidden frames of these they are, from 0.
        counts_B: hidden frames of each utterance.
        most: N, of the utterance that has most.
    """

    rows_M: Tensor
    frames_M: Tensor
    places_M: Tensor
    counts_B: Tensor
    most: int

    @classmethod
    def of(cls, hidden_BT: Tensor, device: torch.device) -> HiddenFrames:
        """Looks them up in a mask.

        Args:
            hidden_BT: True = hidden; best on the CPU.
            device: where they are used.
        """
        rows_M, frames_M = hidden_BT.nonzero(as_tuple=True)
        places_M = hidden_BT.cumsum(1)[rows_M, frames_M] - 1
        counts_B = hidden_BT.sum(1)
        return cls(
            rows_M.to(device, non_blocking=True),
            frames_M.to(device, non_blocking=True),
            places_M.to(device, non_blocking=True),
            counts_B.to(device, non_blocking=True),
            int(counts_B.max()),
        )

    def pick(self, values_BT: Tensor) -> Tensor:
        """Their values, (M, …), of (B, T, …)."""
        return values_BT[self.rows_M, self.frames_M]

    def by_utterance(self, values_M: Tensor) -> Tensor:
        """Values of (M, …) as (B, N, …), zero past an utterance's last."""
        shape = (len(self.counts_B), self.most, *values_M.shape[1:])
        return values_M.new_zeros(shape).index_put((self.rows_M, self.places_M), values_M)

    def in_a_row(self, values_BN: Tensor) -> Tensor:
        """Values of (B, N, …) as (M, …): undoes `by_utterance`."""
        return values_BN[self.rows_M, self.places_M]

    def sum(self, values_M: Tensor) -> Tensor:
        """Sums (B) over the hidden frames of each utterance."""
        return values_M.new_zeros(len(self.counts_B)).index_add(0, self.rows_M, values_M)
