"""Depthwise convolution over time that sees neither padding nor future chunks.

Dynamic chunk convolution (arXiv 2304.09325): a frame sees (kernel − 1) / 2 frames to its left,
whatever chunk they are in, and to its right only frames of its own chunk.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D channels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.summary import masked


def depthwise_conv(
    x_BTD: Tensor,
    weight_D1W: Tensor,
    bias_D: Tensor | None,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    causal: bool = False,
) -> Tensor:
    """Convolves each channel over time; padded frames and the outside count as zero.

    Args:
        x_BTD: input.
        weight_D1W: one kernel per channel, of odd width unless causal.
        bias_D: one bias per channel.
        padding_BT: True = padded.
        chunk_size: frames of a chunk; None = the whole utterance is visible.
        causal: no frame to the right is seen, in or out of the chunk.

    Returns:
        y_BTD.
    """
    x_BTD = masked(x_BTD, padding_BT)
    reach = weight_D1W.shape[-1] - 1
    left, right = (reach, 0) if causal else (reach // 2, reach // 2)
    if chunk_size is None or causal:
        x_BDT = F.pad(x_BTD.transpose(1, 2), (left, right))
        return _convolve(x_BDT, weight_D1W, bias_D).transpose(1, 2)
    length = x_BTD.shape[1]
    x_BDT = F.pad(x_BTD.transpose(1, 2), (left, -length % chunk_size))
    windows_BDCK = x_BDT.unfold(2, chunk_size + left, chunk_size)
    # The zeros to the right of every chunk stand for the frames that it may not see.
    windows_XDK = F.pad(windows_BDCK.transpose(1, 2).flatten(0, 1), (0, right))
    y_XDK = _convolve(windows_XDK, weight_D1W, bias_D)
    y_BCKD = y_XDK.transpose(1, 2).unflatten(0, (x_BTD.shape[0], -1))
    return y_BCKD.flatten(1, 2)[:, :length]


def _convolve(x_BDT: Tensor, weight_D1W: Tensor, bias_D: Tensor | None) -> Tensor:
    return F.conv1d(x_BDT, weight_D1W, bias_D, groups=weight_D1W.shape[0])
