"""What attention remembers of a stream: the frames that later chunks may still see.

Shape suffixes: B batch, T new frames, S remembered and new frames, D model features, H heads,
E features of a head.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from summarymixing_modules.mixers.base import Mixer
from summarymixing_modules.ops.chunks import Chunks


class AttentionCache(NamedTuple):
    """The visible past. It grows with time when the left context is unlimited.

    Attributes:
        frames: tensors of the past (keys and values, or inputs), time in dimension 1.
        padding_BS: True = padded.
        position: index of the next frame.
    """

    frames: tuple[Tensor, ...]
    padding_BS: Tensor
    position: int

    @classmethod
    def empty(cls, *frames: Tensor) -> AttentionCache:
        """A cache without a past, of tensors (B, 0, …)."""
        return cls(frames, frames[0].new_zeros(frames[0].shape[:2], dtype=torch.bool), 0)

    def extended(self, new: tuple[Tensor, ...], padding_BT: Tensor | None) -> AttentionCache:
        """The cache with a chunk appended: what that chunk may see."""
        if padding_BT is None:
            padding_BT = new[0].new_zeros(new[0].shape[:2], dtype=torch.bool)
        return AttentionCache(
            tuple(torch.cat(pair, dim=1) for pair in zip(self.frames, new, strict=True)),
            torch.cat([self.padding_BS, padding_BT], dim=1),
            self.position + new[0].shape[1],
        )

    def trimmed(self, chunks: Chunks) -> AttentionCache:
        """The cache without the frames that the next chunk cannot see."""
        if chunks.left is None:
            return self
        return self.last(chunks.left * chunks.size)

    def last(self, count: int) -> AttentionCache:
        """The cache without the frames before the last ``count``."""
        first = max(0, self.padding_BS.shape[1] - count)
        frames = tuple(tensor[:, first:] for tensor in self.frames)
        return self._replace(frames=frames, padding_BS=self.padding_BS[:, first:])

    def seen_BTS(self, length: int) -> Tensor:
        """Which remembered frames the last ``length`` frames see.

        Everything in the cache is in reach, so only padding hides; every frame sees itself.
        """
        time_S = torch.arange(self.padding_BS.shape[1], device=self.padding_BS.device)
        own_TS = time_S[len(time_S) - length :, None] == time_S
        return ~self.padding_BS[:, None, :] | own_TS


class CachedAttention(Mixer):
    """Softmax attention whose streams keep keys and values of the visible past.

    A step takes time and memory in O(T · S), new frames times frames seen, and drops nothing out.
    """

    nhead: int

    @abstractmethod
    def project(self, x_BTD: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, T, E) of frames that begin at ``position``."""

    @abstractmethod
    def read(
        self, query_BHTE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, seen_BTS: Tensor
    ) -> Tensor:
        """y_BTD of the T last of S frames."""

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> AttentionCache:
        x_B0HE = x_B0D.unflatten(-1, (self.nhead, -1))
        return AttentionCache.empty(x_B0HE, x_B0HE)

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: AttentionCache
    ) -> tuple[Tensor, AttentionCache]:
        query_BHTE, *new = self.project(x_BTD, memory.position)
        memory = memory.extended(tuple(tensor.transpose(1, 2) for tensor in new), padding_BT)
        key_BHSE, value_BHSE = (tensor.transpose(1, 2) for tensor in memory.frames)
        seen_BTS = memory.seen_BTS(x_BTD.shape[1])
        y_BTD = self.read(query_BHTE, key_BHSE, value_BHSE, seen_BTS)
        return y_BTD, memory.trimmed(chunks)
