"""What SummaryMixing keeps of s(x_1) … s(x_T): four statistics, with their streams.

``mean`` is the papers' (arXiv 2307.07421, eq. 1), and ``DecayedMean`` its expdecay mode. The other
two ask what the mean leaves out (ablations; weights as in attentive pooling, arXiv 1803.10963,
without its hidden layer)::

    weighted    s̄ = Σ_t p_t s(x_t),   p = softmax over the visible frames of v · s(x_t), per head
    mean_std    s̄ = [mean of s(x_t) ; standard deviation of s(x_t)]

Shape suffixes: B batch, T frames, C chunks, S features of s, R features of the statistic, N heads,
I = S / N, L remembered chunks, X numbers that a chunk is kept as.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from summarymixing_modules.mixers.summary_options import MEAN_STD, WEIGHTED
from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype
from summarymixing_modules.ops.decay import (
    decay_scan,
    decayed_means,
    divide_by_weight,
    future_sums,
    weighted_frames,
)
from summarymixing_modules.ops.pooling import (
    UNSEEN,
    chunk_moments,
    chunk_softmax,
    mean_and_deviation,
    merge_moments,
    merge_prefixes,
    merge_softmax,
    merge_windows,
    softmax_mean,
)
from summarymixing_modules.ops.summary import chunk_means


class SummaryStatistic(nn.Module, ABC):
    """A statistic of s(x) over the visible frames, in linear time.

    A stream remembers past_BLX, what is kept of the chunks that the next one can see, [Σ s ; number
    of frames] for means; a single entry for all the past when the left context is unlimited.

    Args:
        summary_dim: features S of s.
    """

    def __init__(self, summary_dim: int) -> None:
        super().__init__()
        self.summary_dim = summary_dim
        self.out_dim = summary_dim

    @abstractmethod
    def forward(self, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks) -> Tensor:
        """The statistic of every chunk, or of every frame.

        Args:
            s_BTS: s(x); T must be a multiple of the chunk size.
            padding_BT: True = padded.
            chunks: that of T frames is full context.

        Returns:
            (B, C, R), or (B, T, R) where it differs inside a chunk; in the dtype of ``s_BTS``.
        """

    def initial_state(self, x_B0D: Tensor, left: int | None) -> Tensor:
        """past_BLX of streams without a past."""
        empty_X = self._empty(x_B0D.device, accumulation_dtype(x_B0D.dtype))
        return empty_X.repeat(len(x_B0D), 1 if left is None else left, 1)

    @abstractmethod
    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, left: int | None, past_BLX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The statistic of the next chunk, as ``forward`` gives it, and the next past_BLX.

        Args:
            s_BTS: s(x) of the chunk.
            padding_BT: True = padded.
            left: chunks to remember; None = all.
            past_BLX: from ``initial_state`` or the step before.
        """

    def _empty(self, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """What is kept of a chunk without frames, (X,)."""
        return torch.zeros(self.summary_dim + 1, device=device, dtype=dtype)


class Mean(SummaryStatistic):
    """Σ s / T."""

    def forward(self, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks) -> Tensor:
        """See ``SummaryStatistic.forward``."""
        return chunk_means(s_BTS, padding_BT, chunks)

    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, left: int | None, past_BLX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``SummaryStatistic.step``."""
        chunk_B1X = weighted_frames(s_BTS, padding_BT).sum(dim=1, keepdim=True)
        seen_B1X = chunk_B1X + past_BLX.sum(dim=1, keepdim=True)
        mean_B1S = divide_by_weight(seen_B1X).to(s_BTS.dtype)
        return mean_B1S, _remembered(past_BLX, chunk_B1X, seen_B1X, left)


class DecayedMean(SummaryStatistic):
    """Σ_i λ^|t−i| s_i / Σ_i λ^|t−i|, another one for every frame t.

    Args:
        summary_dim: features S of s.
        decay: λ in (0, 1].
    """

    def __init__(self, summary_dim: int, decay: float) -> None:
        super().__init__(summary_dim)
        self.decay = decay

    def forward(self, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks) -> Tensor:
        """See ``SummaryStatistic.forward``."""
        return decayed_means(s_BTS, padding_BT, chunks, self.decay)

    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, left: int | None, past_BLX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``SummaryStatistic.step``."""
        length, decay = s_BTS.shape[1], self.decay
        frames_BTX = weighted_frames(s_BTS, padding_BT)
        before_BTX = decay_scan(frames_BTX, decay)
        fade_T = decay ** torch.arange(1, length + 1, device=s_BTS.device).double()
        seen_BTX = before_BTX + future_sums(frames_BTX, decay, length)
        past_B1X = past_BLX.sum(dim=1, keepdim=True)
        seen_BTX = seen_BTX + fade_T.to(seen_BTX.dtype)[:, None] * past_B1X
        mean_BTS = divide_by_weight(seen_BTX).to(s_BTS.dtype)
        chunk_B1X = before_BTX[:, -1:]
        faded_BLX = past_BLX * decay**length
        all_B1X = faded_BLX.sum(dim=1, keepdim=True) + chunk_B1X
        return mean_BTS, _remembered(faded_BLX, chunk_B1X, all_B1X, left)


class _MergedStatistic(SummaryStatistic):
    """Statistics whose chunks are kept as vectors that can be merged (ops/pooling.py)."""

    @abstractmethod
    def _collect(self, s_BTS: Tensor, padding_BT: Tensor | None, chunk_size: int) -> Tensor:
        """What is kept of each chunk, x_BCX."""

    @abstractmethod
    def _merge(self, one_BCX: Tensor, two_BCX: Tensor) -> Tensor:
        """What is kept of two chunks together."""

    @abstractmethod
    def _read(self, x_BCX: Tensor) -> Tensor:
        """The statistic of what was kept, (B, C, R)."""

    def forward(self, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks) -> Tensor:
        """See ``SummaryStatistic.forward``."""
        x_BCX = self._collect(s_BTS, padding_BT, chunks.size)
        empty_X = self._empty(x_BCX.device, x_BCX.dtype)
        seen_BCX = merge_windows(x_BCX, chunks.left, self._merge, empty_X)
        return self._read(seen_BCX).to(s_BTS.dtype)

    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, left: int | None, past_BLX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``SummaryStatistic.step``."""
        chunk_B1X = self._collect(s_BTS, padding_BT, s_BTS.shape[1])
        visible_BLX = torch.cat([past_BLX, chunk_B1X], dim=1)
        seen_B1X = merge_prefixes(visible_BLX, self._merge)[:, -1:]
        statistic_B1R = self._read(seen_B1X).to(s_BTS.dtype)
        return statistic_B1R, _remembered(past_BLX, chunk_B1X, seen_B1X, left)


class WeightedMean(_MergedStatistic):
    """Σ_t p_t s_t with p = softmax(v · s_t) in float32; every head has its own v and p.

    There is no bias: it would not change a softmax.

    Args:
        summary_dim: features S of s.
        nhead: heads N.
    """

    def __init__(self, summary_dim: int, nhead: int) -> None:
        super().__init__(summary_dim)
        self.nhead = nhead
        self.score = nn.Parameter(torch.empty(nhead, summary_dim // nhead))
        bound = 1 / math.sqrt(self.score.shape[1])
        nn.init.uniform_(self.score, -bound, bound)

    def scores(self, s_BTS: Tensor) -> Tensor:
        """v · s, (B, T, N), at least float32 (as a product and a sum, which autocast leaves)."""
        dtype = accumulation_dtype(s_BTS.dtype)
        heads_BTNI = s_BTS.to(dtype).unflatten(-1, self.score.shape)
        return (heads_BTNI * self.score.to(dtype)).sum(dim=-1)

    def _collect(self, s_BTS: Tensor, padding_BT: Tensor | None, chunk_size: int) -> Tensor:
        return chunk_softmax(s_BTS, self.scores(s_BTS), padding_BT, chunk_size)

    def _merge(self, one_BCX: Tensor, two_BCX: Tensor) -> Tensor:
        return merge_softmax(one_BCX, two_BCX, self.nhead)

    def _read(self, x_BCX: Tensor) -> Tensor:
        return softmax_mean(x_BCX, self.nhead)

    def _empty(self, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        sums_X = torch.zeros(self.summary_dim + self.nhead, device=device, dtype=dtype)
        return torch.cat([sums_X, sums_X.new_full((self.nhead,), UNSEEN)])


class MeanAndDeviation(_MergedStatistic):
    """[mean ; standard deviation] of s; twice as wide as s.

    Args:
        summary_dim: features S of s.
    """

    def __init__(self, summary_dim: int) -> None:
        super().__init__(summary_dim)
        self.out_dim = 2 * summary_dim

    def _collect(self, s_BTS: Tensor, padding_BT: Tensor | None, chunk_size: int) -> Tensor:
        return chunk_moments(s_BTS, padding_BT, chunk_size)

    def _merge(self, one_BCX: Tensor, two_BCX: Tensor) -> Tensor:
        return merge_moments(one_BCX, two_BCX)

    def _read(self, x_BCX: Tensor) -> Tensor:
        return mean_and_deviation(x_BCX)

    def _empty(self, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        return torch.zeros(2 * self.summary_dim + 1, device=device, dtype=dtype)


def make_statistic(
    name: str, decay: float | None, summary_dim: int, nhead: int
) -> SummaryStatistic:
    """A statistic by its name.

    Args:
        name: one of ``STATISTICS``.
        decay: λ of the mean; None = it does not decay.
        summary_dim: features S of s.
        nhead: heads of s.
    """
    if decay is not None:
        return DecayedMean(summary_dim, decay)
    if name == WEIGHTED:
        return WeightedMean(summary_dim, nhead)
    return MeanAndDeviation(summary_dim) if name == MEAN_STD else Mean(summary_dim)


def _remembered(past_BLX: Tensor, chunk_B1X: Tensor, all_B1X: Tensor, left: int | None) -> Tensor:
    """The next past_BLX: the chunks within reach, or everything as one where all the past is."""
    if left is None:
        return all_B1X
    past_BLX = torch.cat([past_BLX, chunk_B1X], dim=1)
    return past_BLX[:, past_BLX.shape[1] - left :]
