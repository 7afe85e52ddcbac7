"""Windowed SummaryMixing (arXiv 2602.09043): means over neighbourhoods beside the global summary.

With one window or several, each of w frames (an odd number) centred on frame t::

    s̄^w_t = mean of s(x_i) over the real frames i with |i − t| ≤ (w − 1) / 2 that frame t may see
    h_t   = c( f(x_t) , s̄^w_t , s̄ )

In chunks a frame may see its own chunk and those to its left that the left context allows, so a
window ends with the chunk at the latest, and begins with the left context at the earliest; at the
ends of an utterance, or beside padding, it has fewer frames. A causal cell has windows of the past.

Shape suffixes: B batch, T frames, S features of s, R remembered frames, X = S + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype
from summarymixing_modules.ops.decay import divide_by_weight, weighted_frames
from summarymixing_modules.ops.window_means import window_means, window_sums


class SummaryMemory(NamedTuple):
    """What a stream of SummaryMixing remembers.

    Attributes:
        past_BLX: see ``SummaryStatistic``.
        recent_BRX: see ``WindowMeans``.
    """

    past_BLX: Tensor
    recent_BRX: Tensor


class WindowMeans(nn.Module):
    """The means of every window side by side, each with a LayerNorm of its own, in O(T).

    A stream remembers recent_BRX: [s ; 1] of the last frames, as many as the widest window reaches
    back; zero where they are padded or before the stream.

    Args:
        summary_dim: features S of s.
        widths: frames of each window, odd; none = no features.
        use_layernorm: LayerNorm on each mean.
    """

    def __init__(self, summary_dim: int, widths: Sequence[int], use_layernorm: bool) -> None:
        super().__init__()
        self.radii = tuple(width // 2 for width in widths)
        self.out_dim = summary_dim * len(self.radii)
        self.summary_dim = summary_dim
        norm = nn.LayerNorm if use_layernorm else nn.Identity
        self.norms = nn.ModuleList(norm(summary_dim) for _ in self.radii)

    def forward(self, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks) -> Tensor:
        """The means of every frame; arguments as in ``SummaryStatistic.forward``.

        Returns:
            (B, T, number of windows × S), in the dtype of ``s_BTS``.
        """
        if not self.radii:
            return s_BTS[..., :0]
        return self._side_by_side(window_means(s_BTS, padding_BT, chunks, self.radii))

    def initial_state(self, x_B0D: Tensor) -> Tensor:
        """recent_BRX before a stream."""
        shape = (len(x_B0D), max(self.radii, default=0), self.summary_dim + 1)
        return x_B0D.new_zeros(shape, dtype=accumulation_dtype(x_B0D.dtype))

    def step(
        self, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks, recent_BRX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The means of the next chunk, as ``forward`` gives them, and the next recent_BRX."""
        reach = recent_BRX.shape[1]
        if not reach:
            return s_BTS[..., :0], recent_BRX
        frames_BTX = weighted_frames(s_BTS, padding_BT)
        hidden = 0 if chunks.left is None else max(0, reach - chunks.left * chunks.size)
        seen_BTX = torch.cat([recent_BRX[:, hidden:], frames_BTX], dim=1)
        sums = [window_sums(seen_BTX, Chunks(seen_BTX.shape[1]), radius) for radius in self.radii]
        means = [divide_by_weight(sums_BTX[:, reach - hidden :]) for sums_BTX in sums]
        recent_BRX = torch.cat([recent_BRX, frames_BTX], dim=1)[:, -reach:]
        return self._side_by_side([mean.to(s_BTS.dtype) for mean in means]), recent_BRX

    def _side_by_side(self, means: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.norms, means, strict=True)
        return torch.cat([norm(mean_BTS) for norm, mean_BTS in pairs], dim=-1)
