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
from typing import NamedTuple

import torch
from torch import Tensor, nn

from summarymixing_modules.ops.chunks import accumulation_dtype
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


class SummaryState(NamedTuple):
    """What a stream remembers.

    Attributes:
        past_BLX: what is kept of the chunks that the next one can see, [Σ s ; number of frames]
            for means; a single entry for all the past when the left context is unlimited.
        left_context_size: chunks to remember; None = all.
    """

    past_BLX: Tensor
    left_context_size: int | None


class SummaryStatistic(nn.Module, ABC):
    """A statistic of s(x) over the visible frames, in linear time.

    Args:
        summary_dim: features S of s.
    """

    def __init__(self, summary_dim: int) -> None:
        super().__init__()
        self.summary_dim = summary_dim
        self.out_dim = summary_dim

    @abstractmethod
    def forward(
        self,
        s_BTS: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int,
        left_context_size: int | None,
    ) -> Tensor:
        """The statistic of every chunk, or of every frame.

        Args:
            s_BTS: s(x); T must be a multiple of ``chunk_size``.
            padding_BT: True = padded.
            chunk_size: frames of a chunk; T = full context.
            left_context_size: chunks to the left; None = all of them.

        Returns:
            (B, C, R), or (B, T, R) where it differs inside a chunk; in the dtype of ``s_BTS``.
        """

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> SummaryState:
        """A stream without a past: (B, L, X) numbers, whatever the length of the stream."""
        remembered = 1 if left_context_size is None else left_context_size
        empty_X = self._empty(device, accumulation_dtype(dtype))
        return SummaryState(empty_X.repeat(batch_size, remembered, 1), left_context_size)

    @abstractmethod
    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, state: SummaryState
    ) -> tuple[Tensor, SummaryState]:
        """The statistic of the next chunk, as ``forward`` gives it, and the next state."""

    def _empty(self, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """What is kept of a chunk without frames, (X,)."""
        return torch.zeros(self.summary_dim + 1, device=device, dtype=dtype)


class Mean(SummaryStatistic):
    """Σ s / T."""

    def forward(
        self,
        s_BTS: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int,
        left_context_size: int | None,
    ) -> Tensor:
        """See ``SummaryStatistic.forward``."""
        return chunk_means(s_BTS, padding_BT, chunk_size, left_context_size)

    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, state: SummaryState
    ) -> tuple[Tensor, SummaryState]:
        """See ``SummaryStatistic.step``."""
        chunk_B1X = weighted_frames(s_BTS, padding_BT).sum(dim=1, keepdim=True)
        seen_B1X = chunk_B1X + state.past_BLX.sum(dim=1, keepdim=True)
        mean_B1S = divide_by_weight(seen_B1X).to(s_BTS.dtype)
        return mean_B1S, _remember(state, chunk_B1X, seen_B1X)


class DecayedMean(SummaryStatistic):
    """Σ_i λ^|t−i| s_i / Σ_i λ^|t−i|, another one for every frame t.

    Args:
        summary_dim: features S of s.
        decay: λ in (0, 1].
    """

    def __init__(self, summary_dim: int, decay: float) -> None:
        super().__init__(summary_dim)
        self.decay = decay

    def forward(
        self,
        s_BTS: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int,
        left_context_size: int | None,
    ) -> Tensor:
        """See ``SummaryStatistic.forward``."""
        return decayed_means(s_BTS, padding_BT, chunk_size, left_context_size, self.decay)

    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, state: SummaryState
    ) -> tuple[Tensor, SummaryState]:
        """See ``SummaryStatistic.step``."""
        length, decay = s_BTS.shape[1], self.decay
        frames_BTX = weighted_frames(s_BTS, padding_BT)
        before_BTX = decay_scan(frames_BTX, decay)
        fade_T = decay ** torch.arange(1, length + 1, device=s_BTS.device).double()
        seen_BTX = before_BTX + future_sums(frames_BTX, decay, length)
        past_B1X = state.past_BLX.sum(dim=1, keepdim=True)
        seen_BTX = seen_BTX + fade_T.to(seen_BTX.dtype)[:, None] * past_B1X
        mean_BTS = divide_by_weight(seen_BTX).to(s_BTS.dtype)
        chunk_B1X = before_BTX[:, -1:]
        state = state._replace(past_BLX=state.past_BLX * decay**length)
        all_B1X = state.past_BLX.sum(dim=1, keepdim=True) + chunk_B1X
        return mean_BTS, _remember(state, chunk_B1X, all_B1X)


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

    def forward(
        self,
        s_BTS: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int,
        left_context_size: int | None,
    ) -> Tensor:
        """See ``SummaryStatistic.forward``."""
        x_BCX = self._collect(s_BTS, padding_BT, chunk_size)
        empty_X = self._empty(x_BCX.device, x_BCX.dtype)
        seen_BCX = merge_windows(x_BCX, left_context_size, self._merge, empty_X)
        return self._read(seen_BCX).to(s_BTS.dtype)

    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, state: SummaryState
    ) -> tuple[Tensor, SummaryState]:
        """See ``SummaryStatistic.step``."""
        chunk_B1X = self._collect(s_BTS, padding_BT, s_BTS.shape[1])
        visible_BLX = torch.cat([state.past_BLX, chunk_B1X], dim=1)
        seen_B1X = merge_prefixes(visible_BLX, self._merge)[:, -1:]
        statistic_B1R = self._read(seen_B1X).to(s_BTS.dtype)
        return statistic_B1R, _remember(state, chunk_B1X, seen_B1X)


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


def _remember(state: SummaryState, chunk_B1X: Tensor, all_B1X: Tensor) -> SummaryState:
    """The next state: the chunks within reach, or everything as one where all the past is."""
    limit = state.left_context_size
    if limit is None:
        return state._replace(past_BLX=all_B1X)
    past_BLX = torch.cat([state.past_BLX, chunk_B1X], dim=1)
    return state._replace(past_BLX=past_BLX[:, past_BLX.shape[1] - limit :])
