"""Every utterance on a time axis of the same number of cells, whatever its length.

Shape suffixes: B batch, T frames, P cells, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from summarymixing_modules.ops.chunks import accumulation_dtype


def cell_weights(
    length: int, padding_BT: Tensor | None, cells: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Weights of the mean of an utterance over each of ``cells`` equal parts of its duration.

    The n real frames last one unit of time each; cell p is the time from p·n/P to (p+1)·n/P, and
    frame t counts in it by the share of the cell that it covers. So long utterances are averaged
    and short ones stretched. Shares are fractions of integers: nothing is lost however long it is.

    Args:
        length: frames T, padding included.
        padding_BT: True = padded; None = no frame is.
        cells: P.
        device: where to make them.
        dtype: of the weights.

    Returns:
        weights (1 or B, P, T), zero at padded frames; each row sums up to 1, or to 0 in an
        utterance without a real frame.
    """
    if padding_BT is None:
        padding_BT = torch.zeros((1, length), dtype=torch.bool, device=device)
    real_BT = ~padding_BT
    # Everything is counted in units of 1 / P of a frame. Half the memory of the default int64.
    total_B11 = real_BT.sum(dim=1, dtype=torch.int32)[:, None, None]
    start_B1T = ((real_BT.cumsum(dim=1, dtype=torch.int32) - 1) * cells)[:, None]
    border_BP1 = torch.arange(cells, device=device, dtype=torch.int32)[:, None] * total_B11
    stop_BPT = torch.minimum(start_B1T + cells, border_BP1 + total_B11)
    shared_BPT = (stop_BPT - torch.maximum(start_B1T, border_BP1)).clamp(min=0)
    shared_BPT = shared_BPT.masked_fill(padding_BT[:, None], 0)
    return (shared_BPT.to(accumulation_dtype(dtype)) / total_B11.clamp(min=1)).to(dtype)
