"""Depthwise convolution over time that sees neither padding nor future chunks.

Dynamic chunk convolution (arXiv 2304.09325): a frame sees (kernel − 1) / 2 frames to its left,
whatever chunk they are in, and to its right only frames of its own chunk.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.errors import InputError
from summarymixing_modules.ops.summary import masked

#: What is outside an utterance: zeros, or the utterance again, backwards, without its edge.
PADDING_MODES = ("zeros", "reflect")


def check_padding_mode(padding_mode: str) -> None:
    """Refuses a padding mode that does not exist.

    Raises:
        InputError: names those that do.
    """
    if padding_mode not in PADDING_MODES:
        raise InputError(f"padding_mode={padding_mode!r} must be {' or '.join(PADDING_MODES)}.")


def reflected(x_BTD: Tensor, lengths_B: Tensor, reach: int) -> Tensor:
    """Utterances that go on as their own reflections, whatever stands in their padded frames.

    As torch's "reflect" of an utterance alone; where that fails, as an utterance is not longer than
    ``reach``, it is reflected back and forth.

    Args:
        x_BTD: input.
        lengths_B: real frames of each utterance.
        reach: frames before the first, and after the last of the T.

    Returns:
        (B, reach + T + reach, D).
    """
    frames_T = torch.arange(-reach, x_BTD.shape[1] + reach, device=x_BTD.device).abs()
    last_B1 = (lengths_B.to(x_BTD.device).long() - 1).clamp(min=0)[:, None]
    period_B1 = 2 * last_B1.clamp(min=1)
    place_BT = frames_T % period_B1
    place_BT = place_BT.minimum(period_B1 - place_BT).minimum(last_B1)
    return x_BTD.gather(1, place_BT[..., None].expand(-1, -1, x_BTD.shape[2]))


def depthwise_conv(
    x_BTD: Tensor,
    weight_D1W: Tensor,
    bias_D: Tensor | None,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    causal: bool = False,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolves each channel over time; padded frames and the outside count as zero.

    Args:
        x_BTD: input.
        weight_D1W: one kernel per channel, of odd width unless causal.
        bias_D: one bias per channel.
        padding_BT: True = padded.
        chunk_size: frames of a chunk; None = the whole utterance is visible.
        causal: no frame to the right is seen, in or out of the chunk.
        padding_mode: "reflect" puts an utterance's own reflection outside of it, not zeros.

    Returns:
        y_BTD.

    Raises:
        InputError: reflection of a chunk, or to the left only.
    """
    if padding_mode == "reflect":
        if chunk_size is not None or causal:
            raise InputError(
                "padding_mode=reflect needs whole utterances: for chunks and streams train with "
                "padding_mode=zeros."
            )
        length = x_BTD.shape[1]
        lengths_B = torch.full((len(x_BTD),), length, device=x_BTD.device)
        if padding_BT is not None:
            lengths_B = (~padding_BT).sum(dim=1)
        x_BTD = reflected(x_BTD, lengths_B, weight_D1W.shape[-1] // 2)
        return _convolve(x_BTD.transpose(1, 2), weight_D1W, bias_D).transpose(1, 2)
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
