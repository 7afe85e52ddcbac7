"""Convolutional front ends: mel filterbanks in, four times fewer frames out; they stream.

They see no padding: frames past the end count as zero, as what lies outside an utterance does, so
an utterance comes out the same alone and beside longer ones. ``padding_mode="reflect"`` reflects at
the edges, as SpeechBrain's ``ConvolutionFrontEnd`` does, but at those of each utterance: SpeechBrain
reads padding. What reflects its end cannot stream.

Shape suffixes: B batch, T frames, F mel bands, C channels, X features between two convolutions,
D output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.describe import describable
from summarymixing_modules.ops.convolution import check_padding_mode, reflected
from summarymixing_modules.ops.summary import masked

#: The length of a stream that goes on: longer than any.
RUNNING = 1 << 40


def lengths_to_padding(lengths_B: Tensor, length: int) -> Tensor:
    """(B, T) mask, True = padded, from numbers of real frames."""
    return torch.arange(length, device=lengths_B.device)[None] >= lengths_B[:, None]


def strided_lengths(lengths_B: Tensor, stride: int) -> Tensor:
    """Real frames after a convolution of odd kernel, "same" padding and a stride."""
    return torch.div(lengths_B + stride - 1, stride, rounding_mode="floor")


class ConvState(NamedTuple):
    """What one convolution remembers of a stream.

    Attributes:
        inputs_BTX: its last inputs, those that a coming output needs.
        seen: how many inputs there were.
        made: how many outputs.
    """

    inputs_BTX: Tensor
    seen: int
    made: int


@dataclass(frozen=True)
class FrontEndState:
    """What a front end remembers of a stream; of fixed size.

    Attributes:
        convs: one state for each convolution.
    """

    convs: tuple[ConvState, ...]


class ConvFrontEnd(nn.Module):
    """Base of the front ends: blocks of a strided convolution, LayerNorm, activation and dropout.

    A subclass makes ``convs`` and ``norms`` and says how a block convolves.

    Args:
        widths: input features of every convolution, and those of the output.
        kernel_size: of every convolution; odd.
        stride: of every convolution.
        padding_mode: what is outside an utterance, "zeros" or "reflect".

    Raises:
        InputError: another ``padding_mode``.
    """

    convs: nn.ModuleList

    def __init__(
        self, widths: Sequence[int], kernel_size: int, stride: int, padding_mode: str
    ) -> None:
        super().__init__()
        check_padding_mode(padding_mode)
        self.widths, self.kernel_size, self.stride = tuple(widths), kernel_size, stride
        self.padding_mode = padding_mode
        self.output_size = self.widths[-1]

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Subsamples features.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.

        Returns:
            y_BTD and the real frames of each.
        """
        x_BTX = x_BTF
        for index in range(len(self.convs)):
            if self.padding_mode == "reflect":
                x_BTX = reflected(x_BTX, lengths_B, self.kernel_size // 2)
                x_BTX = self._block(index, x_BTX, with_edges=True)
            else:
                x_BTX = masked(x_BTX, lengths_to_padding(lengths_B, x_BTX.shape[1]))
                x_BTX = self._block(index, x_BTX)
            lengths_B = strided_lengths(lengths_B, self.stride)
        return x_BTX, lengths_B

    def lengths(self, lengths_B: Tensor) -> Tensor:
        """Real outputs of so many real inputs."""
        for _ in self.convs:
            lengths_B = strided_lengths(lengths_B, self.stride)
        return lengths_B

    def _block(self, index: int, x_BTX: Tensor, with_edges: bool = False) -> Tensor:
        """A block; an input that has its edges gets no more frames there."""
        raise NotImplementedError

    @property
    def subsampling(self) -> int:
        """Features for each output."""
        return int(self.stride ** len(self.convs))

    @property
    def look_ahead(self) -> int:
        """Features that an output needs after the ``subsampling`` ones that it stands for."""
        reach = 0
        for _ in self.convs:
            reach = reach * self.stride + self._window - 1 - self.kernel_size // 2
        return reach + 1 - self.subsampling

    @property
    def _window(self) -> int:
        """Inputs that an output waits for."""
        return max(self.kernel_size, self.stride)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FrontEndState:
        """State before the first frame: the zeros that ``forward`` sees before an utterance.

        Raises:
            InputError: a front end that reflects.
        """
        if self.padding_mode == "reflect":
            raise InputError(
                "padding_mode=reflect: a front end that reflects the end of an utterance cannot "
                "stream, as it is not known yet: train with padding_mode=zeros."
            )
        anchor = next(self.parameters())
        device, dtype = device or anchor.device, dtype or anchor.dtype
        shapes = [(batch_size, self.kernel_size // 2, width) for width in self.widths[:-1]]
        zeros = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]
        return FrontEndState(tuple(ConvState(inputs_BTX, 0, 0) for inputs_BTX in zeros))

    def step(
        self,
        x_BTF: Tensor,
        state: FrontEndState,
        lengths_B: Tensor | None = None,
        final: bool = False,
    ) -> tuple[Tensor, FrontEndState]:
        """Subsamples the next frames of streams; together the outputs equal ``forward``'s.

        Args:
            x_BTF: any number of frames, also none.
            state: from ``initial_state`` or the step before. It is not changed.
            lengths_B: real frames of each whole stream, ``RUNNING`` while that is unknown; None =
                unknown for all.
            final: no frame comes after these.

        Returns:
            y_BTD, as many frames as can be known by now, and the next state.
        """
        x_BTX, convs = x_BTF, []
        for index, conv in enumerate(state.convs):
            x_BTX, conv = self._step(index, x_BTX, conv, lengths_B, final)
            convs.append(conv)
            lengths_B = None if lengths_B is None else strided_lengths(lengths_B, self.stride)
        return x_BTX, FrontEndState(tuple(convs))

    def _step(
        self, index: int, x_BTX: Tensor, state: ConvState, lengths_B: Tensor | None, final: bool
    ) -> tuple[Tensor, ConvState]:
        """``step`` of one block."""
        if lengths_B is not None:
            x_BTX = masked(x_BTX, lengths_to_padding(lengths_B - state.seen, x_BTX.shape[1]))
        seen = state.seen + x_BTX.shape[1]
        inputs_BTX = torch.cat([state.inputs_BTX, x_BTX], dim=1)
        ready = max(0, (inputs_BTX.shape[1] - self._window) // self.stride + 1)
        if final:
            ready = -(-seen // self.stride) - state.made
            missing = (ready - 1) * self.stride + self._window - inputs_BTX.shape[1]
            inputs_BTX = F.pad(inputs_BTX, (0, 0, 0, max(0, missing)))
        if ready == 0:
            empty_BTX = x_BTX.new_zeros(x_BTX.shape[0], 0, self.widths[index + 1])
            return empty_BTX, ConvState(inputs_BTX, seen, state.made)
        y_BTX = self._block(index, inputs_BTX, with_edges=True)[:, :ready]
        # A copy: a view would keep all the inputs.
        rest_BTX = inputs_BTX[:, ready * self.stride :].clone()
        return y_BTX, ConvState(rest_BTX, seen, state.made + ready)


@describable
class ConvFrontEnd2d(ConvFrontEnd):
    """Blocks of Conv2d, LayerNorm, LeakyReLU and dropout over time and frequency.

    The front end of the papers' recipes (arXiv 2307.07421: channels (64, 32); 2409.02596:
    (128, 32)): 80 mels become 20 bands × 32 channels = 640 features.

    Args:
        input_size: mel bands F.
        channels: output channels of each block.
        kernel_size: of every convolution; odd.
        stride: of every convolution, in time and frequency.
        dropout: after every block.
        padding_mode: outside of time and frequency, "zeros" or "reflect", which the papers have.
    """

    def __init__(
        self,
        input_size: int = 80,
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 3,
        stride: int = 2,
        dropout: float = 0.1,
        padding_mode: str = "zeros",
    ) -> None:
        bands = [input_size]
        for _ in channels:
            bands.append(-(-bands[-1] // stride))
        sizes = [1, *channels]
        widths = [band * size for band, size in zip(bands, sizes, strict=True)]
        super().__init__(widths, kernel_size, stride, padding_mode)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs, band in zip(sizes[:-1], channels, bands[1:], strict=True):
            padding = kernel_size // 2
            self.convs.append(nn.Conv2d(inputs, outputs, kernel_size, stride, padding))
            self.norms.append(nn.LayerNorm([band, outputs]))
        self.activation, self.dropout = nn.LeakyReLU(), nn.Dropout(dropout)

    def _block(self, index: int, x_BTX: Tensor, with_edges: bool = False) -> Tensor:
        conv = self.convs[index]
        assert isinstance(conv, nn.Conv2d)
        x_BCTF = x_BTX.unflatten(2, (-1, conv.in_channels)).permute(0, 3, 1, 2)
        if with_edges:
            edge = self.kernel_size // 2
            padding = (0, edge)
            if self.padding_mode == "reflect":
                padding, x_BCTF = (0, 0), F.pad(x_BCTF, (edge, edge, 0, 0), mode="reflect")
            x_BCTF = F.conv2d(x_BCTF, conv.weight, conv.bias, self.stride, padding)
        else:
            x_BCTF = conv(x_BCTF)
        x_BTFC = self.norms[index](x_BCTF.permute(0, 2, 3, 1))
        return self.dropout(self.activation(x_BTFC)).flatten(2)


@describable
class ConvFrontEnd1d(ConvFrontEnd):
    """Blocks of Conv1d over time, LayerNorm, GELU and dropout; cheap enough for small models.

    Args:
        input_size: mel bands F.
        channels: output channels of each block.
        kernel_size: of every convolution; odd.
        stride: of every convolution.
        dropout: after every block.
        padding_mode: what is outside an utterance, "zeros" or "reflect".
    """

    def __init__(
        self,
        input_size: int = 80,
        channels: Sequence[int] = (256, 256),
        kernel_size: int = 5,
        stride: int = 2,
        dropout: float = 0.1,
        padding_mode: str = "zeros",
    ) -> None:
        sizes = [input_size, *channels]
        super().__init__(sizes, kernel_size, stride, padding_mode)
        self.convs = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel_size, stride, kernel_size // 2)
            for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(outputs) for outputs in channels)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)

    def _block(self, index: int, x_BTX: Tensor, with_edges: bool = False) -> Tensor:
        conv = self.convs[index]
        assert isinstance(conv, nn.Conv1d)
        x_BCT = x_BTX.transpose(1, 2)
        if with_edges:
            x_BCT = F.conv1d(x_BCT, conv.weight, conv.bias, self.stride)
        else:
            x_BCT = conv(x_BCT)
        return self.dropout(self.activation(self.norms[index](x_BCT.transpose(1, 2))))
