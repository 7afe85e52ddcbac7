"""Convolutional front ends: mel filterbanks in, four times fewer frames out.

They see no padding: frames past the end count as zero, as what lies outside an utterance does, so
an utterance comes out the same alone and beside longer ones. (SpeechBrain's ``ConvolutionFrontEnd``
reflects at the edges and reads padding.)

Shape suffixes: B batch, T frames, F mel bands, C channels, D output features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from summarymixing_modules.ops.summary import masked


def lengths_to_padding(lengths_B: Tensor, length: int) -> Tensor:
    """(B, T) mask, True = padded, from numbers of real frames."""
    return torch.arange(length, device=lengths_B.device)[None] >= lengths_B[:, None]


def strided_lengths(lengths_B: Tensor, stride: int) -> Tensor:
    """Real frames after a convolution of odd kernel, "same" padding and a stride."""
    return torch.div(lengths_B + stride - 1, stride, rounding_mode="floor")


class ConvFrontEnd2d(nn.Module):
    """Blocks of Conv2d, LayerNorm, LeakyReLU and dropout over time and frequency.

    The front end of the papers' recipes (arXiv 2307.07421: channels (64, 32); 2409.02596:
    (128, 32)): 80 mels become 20 bands × 32 channels = 640 features.

    Args:
        input_size: mel bands F.
        channels: output channels of each block.
        kernel_size: of every convolution; odd.
        stride: of every convolution, in time and frequency.
        dropout: after every block.
    """

    def __init__(
        self,
        input_size: int = 80,
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 3,
        stride: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        bands, inputs = input_size, 1
        for outputs in channels:
            bands = -(-bands // stride)
            padding = kernel_size // 2
            self.convs.append(nn.Conv2d(inputs, outputs, kernel_size, stride, padding))
            self.norms.append(nn.LayerNorm([bands, outputs]))
            inputs = outputs
        self.activation, self.dropout = nn.LeakyReLU(), nn.Dropout(dropout)
        self.output_size = bands * inputs

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Subsamples features.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.

        Returns:
            y_BTD and the real frames of each.
        """
        x_BTFC = x_BTF[..., None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_BTX = masked(x_BTFC.flatten(2), lengths_to_padding(lengths_B, x_BTFC.shape[1]))
            x_BCTF = conv(x_BTX.view_as(x_BTFC).permute(0, 3, 1, 2))
            x_BTFC = self.dropout(self.activation(norm(x_BCTF.permute(0, 2, 3, 1))))
            lengths_B = strided_lengths(lengths_B, self.stride)
        return x_BTFC.flatten(2), lengths_B


class ConvFrontEnd1d(nn.Module):
    """Blocks of Conv1d over time, LayerNorm, GELU and dropout; cheap enough for small models.

    Args:
        input_size: mel bands F.
        channels: output channels of each block.
        kernel_size: of every convolution; odd.
        stride: of every convolution.
        dropout: after every block.
    """

    def __init__(
        self,
        input_size: int = 80,
        channels: Sequence[int] = (256, 256),
        kernel_size: int = 5,
        stride: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.stride = stride
        sizes = [input_size, *channels]
        self.convs = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel_size, stride, kernel_size // 2)
            for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(outputs) for outputs in channels)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)
        self.output_size = sizes[-1]

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Subsamples features; arguments and results as in ``ConvFrontEnd2d.forward``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_BTF = masked(x_BTF, lengths_to_padding(lengths_B, x_BTF.shape[1]))
            x_BTF = conv(x_BTF.transpose(1, 2)).transpose(1, 2)
            x_BTF = self.dropout(self.activation(norm(x_BTF)))
            lengths_B = strided_lengths(lengths_B, self.stride)
        return x_BTF, lengths_B
