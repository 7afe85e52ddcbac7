"""SpeechBrain's convolution modules, blind to padding and able to stream.

Stock modules let padding leak into the last valid frames (the input of the convolution is not
masked; Branchformer's even reflects it), so an utterance changes with its batch-mates. Here the
input is masked and the outside counts as zero, or, in the Branchformer and if asked for, as the
utterance's own reflection.

Shape suffixes: B batch, T frames, D channels.
"""

from __future__ import annotations

from typing import Any

from speechbrain.lobes.models.convolution import ConvolutionalSpatialGatingUnit
from speechbrain.lobes.models.transformer.Branchformer import ConvolutionBranch
from speechbrain.lobes.models.transformer.Conformer import ConvolutionModule
from torch import Tensor, nn

from summarymixing_modules.encoders.layer import Frames
from summarymixing_modules.ops.convolution import check_padding_mode


class MaskedConvolutionModule(ConvolutionModule):
    """The convolution module of the Conformer (arXiv 2005.08100, §2.2), as SpeechBrain has it.

    Arguments are SpeechBrain's, without dilation.
    """

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        gated_BTD = self.bottleneck(self.layer_norm(x).transpose(1, 2)).transpose(1, 2)
        return self.after_conv(frames.convolve(self.conv, gated_BTD, self.causal))


class MaskedGatingUnit(ConvolutionalSpatialGatingUnit):
    """The convolutional spatial gating unit of the Branchformer (arXiv 2207.02971, §3.3).

    Args:
        *sizes: SpeechBrain's arguments.
        padding_mode: what is outside an utterance, "zeros" or "reflect".

    Raises:
        InputError: another ``padding_mode``.
    """

    def __init__(self, *sizes: Any, padding_mode: str = "zeros") -> None:
        super().__init__(*sizes)
        check_padding_mode(padding_mode)
        self.padding_mode = padding_mode

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Gates one half of the channels (B, T, D) with the other; returns (B, T, D/2)."""
        kept_BTD, gate_BTD = x.chunk(2, dim=-1)
        gate_BTD = frames.convolve(
            self.conv.conv, self.norm(gate_BTD), padding_mode=self.padding_mode
        )
        if self.use_linear_after_conv:
            gate_BTD = self.linear(gate_BTD)
        return self.dropout(kept_BTD * self.activation(gate_BTD))


class MaskedConvolutionBranch(ConvolutionBranch):
    """The cgMLP branch of the Branchformer (arXiv 2207.02971, §3.3).

    Arguments are SpeechBrain's, and ``padding_mode`` of ``MaskedGatingUnit``.
    """

    def __init__(
        self,
        input_size: int,
        linear_units: int = 3072,
        kernel_size: int = 31,
        activation: type[nn.Module] = nn.GELU,
        gate_activation: type[nn.Module] = nn.Identity,
        dropout: float = 0.0,
        use_linear_after_conv: bool = False,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            input_size,
            linear_units,
            kernel_size,
            activation,
            gate_activation,
            dropout,
            use_linear_after_conv,
        )
        self.csgu = MaskedGatingUnit(
            linear_units,
            kernel_size,
            dropout,
            use_linear_after_conv,
            gate_activation,
            padding_mode=padding_mode,
        )

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        x = self.activation(self.pre_channel_proj(x))
        return self.post_channel_proj(self.csgu(x, frames))
