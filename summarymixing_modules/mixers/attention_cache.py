"""What an attention mixer remembers of a stream: the frames that later chunks may still see.

Shape suffixes: B batch, S remembered frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionCache(NamedTuple):
    """The visible past. It grows with time when the left context is unlimited.

    Attributes:
        frames: tensors of the past (keys and values, or inputs), time in dimension 1.
        padding_BS: True = padded.
        chunk_sizes: frames of each remembered chunk, the oldest first.
        position: index of the next frame.
        left_context_size: chunks to remember; None = all.
    """

    frames: tuple[Tensor, ...]
    padding_BS: Tensor
    chunk_sizes: tuple[int, ...]
    position: int
    left_context_size: int | None

    @classmethod
    def empty(
        cls,
        shapes: tuple[tuple[int, ...], ...],
        left_context_size: int | None,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> AttentionCache:
        """A cache without a past; ``shapes`` are those of ``frames``, (B, 0, …)."""
        frames = tuple(torch.zeros(shape, device=device, dtype=dtype) for shape in shapes)
        padding_BS = torch.zeros(shapes[0][:2], device=device, dtype=torch.bool)
        return cls(frames, padding_BS, (), 0, left_context_size)

    def extended(self, new: tuple[Tensor, ...], padding_BT: Tensor | None) -> AttentionCache:
        """The cache with a chunk appended: what that chunk may see."""
        if padding_BT is None:
            padding_BT = new[0].new_zeros(new[0].shape[:2], dtype=torch.bool)
        length = new[0].shape[1]
        frames = tuple(torch.cat(pair, dim=1) for pair in zip(self.frames, new, strict=True))
        return self._replace(
            frames=frames,
            padding_BS=torch.cat([self.padding_BS, padding_BT], dim=1),
            chunk_sizes=(*self.chunk_sizes, length),
            position=self.position + length,
        )

    def trimmed(self) -> AttentionCache:
        """The cache without the chunks that the next one cannot see."""
        if self.left_context_size is None:
            return self
        forgotten = max(0, len(self.chunk_sizes) - self.left_context_size)
        first = sum(self.chunk_sizes[:forgotten])
        frames = tuple(tensor[:, first:] for tensor in self.frames)
        return self._replace(
            frames=frames,
            padding_BS=self.padding_BS[:, first:],
            chunk_sizes=self.chunk_sizes[forgotten:],
        )

    def hidden_BTS(self, length: int) -> Tensor:
        """Which remembered frames the last ``length`` frames do not see (True = hidden).

        Everything in the cache is in reach, so only padding hides; every frame sees itself.
        """
        total = self.padding_BS.shape[1]
        own_TS = torch.eye(total, dtype=torch.bool, device=self.padding_BS.device)[-length:]
        return self.padding_BS[:, None, :] & ~own_TS
