"""SpeechBrain's convolution modules, blind to padding and able to stream.

Stock modules let padding leak into the last valid frames (the input of the convolution is not
masked; Branchformer's even reflects it), so an utterance changes with its batch-mates. Here the
input is masked and the outside counts as zero.

Shape suffixes: B batch, T frames, D channels.
"""

from __future__ import annotations

import torch
from speechbrain.lobes.models.convolution import ConvolutionalSpatialGatingUnit
from speechbrain.lobes.models.transformer.Branchformer import ConvolutionBranch
from speechbrain.lobes.models.transformer.Conformer import ConvolutionModule
from torch import Tensor, nn

from summarymixing_modules.encoders.base import LayerStreamingContext
from summarymixing_modules.ops.convolution import depthwise_conv
from summarymixing_modules.ops.summary import masked


def streamed_conv(
    x_BTD: Tensor,
    conv: nn.Conv1d,
    context: LayerStreamingContext,
    padding_BT: Tensor | None,
    causal: bool,
) -> Tensor:
    """Convolves one chunk after the frames that the context remembers, and remembers its end."""
    reach = conv.kernel_size[0] - 1
    left = reach if causal else reach // 2
    if context.conv_left_BTD is None:
        context.conv_left_BTD = x_BTD.new_zeros(x_BTD.shape[0], left, x_BTD.shape[2])
    seen_BTD = torch.cat([context.conv_left_BTD, masked(x_BTD, padding_BT)], dim=1)
    context.conv_left_BTD = seen_BTD[:, seen_BTD.shape[1] - left :]
    return depthwise_conv(seen_BTD, conv.weight, conv.bias, causal=causal)[:, left:]


class MaskedConvolutionModule(ConvolutionModule):
    """The convolution module of the Conformer (arXiv 2005.08100, §2.2), as SpeechBrain has it.

    Arguments are SpeechBrain's, without dilation.
    """

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Convolves utterances.

        Args:
            x: (B, T, D).
            mask: (B, T), True = padded.
            chunk_size: frames of a chunk (dynamic chunk convolution); None = full context.
        """
        gated_BTD = self._gate(x)
        conv = self.conv
        y_BTD = depthwise_conv(gated_BTD, conv.weight, conv.bias, mask, chunk_size, self.causal)
        return self.after_conv(y_BTD)

    def forward_streaming(
        self, x: Tensor, context: LayerStreamingContext, mask: Tensor | None = None
    ) -> Tensor:
        """Convolves the next chunk (B, T, D)."""
        gated_BTD = self._gate(x)
        return self.after_conv(streamed_conv(gated_BTD, self.conv, context, mask, self.causal))

    def _gate(self, x_BTD: Tensor) -> Tensor:
        return self.bottleneck(self.layer_norm(x_BTD).transpose(1, 2)).transpose(1, 2)


class MaskedGatingUnit(ConvolutionalSpatialGatingUnit):
    """The convolutional spatial gating unit of the Branchformer (arXiv 2207.02971, §3.3)."""

    def forward(
        self, x: Tensor, mask: Tensor | None = None, chunk_size: int | None = None
    ) -> Tensor:
        """Gates one half of the channels (B, T, D) with the other; returns (B, T, D/2)."""
        kept_BTD, gate_BTD = x.chunk(2, dim=-1)
        conv = self.conv.conv
        gate_BTD = depthwise_conv(self.norm(gate_BTD), conv.weight, conv.bias, mask, chunk_size)
        return self._apply_gate(kept_BTD, gate_BTD)

    def forward_streaming(
        self, x: Tensor, context: LayerStreamingContext, mask: Tensor | None = None
    ) -> Tensor:
        """Gates the next chunk (B, T, D)."""
        kept_BTD, gate_BTD = x.chunk(2, dim=-1)
        gate_BTD = streamed_conv(self.norm(gate_BTD), self.conv.conv, context, mask, causal=False)
        return self._apply_gate(kept_BTD, gate_BTD)

    def _apply_gate(self, kept_BTD: Tensor, gate_BTD: Tensor) -> Tensor:
        if self.use_linear_after_conv:
            gate_BTD = self.linear(gate_BTD)
        return self.dropout(kept_BTD * self.activation(gate_BTD))


class MaskedConvolutionBranch(ConvolutionBranch):
    """The cgMLP branch of the Branchformer (arXiv 2207.02971, §3.3); SpeechBrain's arguments."""

    def __init__(
        self,
        input_size: int,
        linear_units: int = 3072,
        kernel_size: int = 31,
        activation: type[nn.Module] = nn.GELU,
        gate_activation: type[nn.Module] = nn.Identity,
        dropout: float = 0.0,
        use_linear_after_conv: bool = False,
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
            linear_units, kernel_size, dropout, use_linear_after_conv, gate_activation
        )

    def forward(
        self, x: Tensor, mask: Tensor | None = None, chunk_size: int | None = None
    ) -> Tensor:
        """Maps (B, T, D) to (B, T, D)."""
        x = self.activation(self.pre_channel_proj(x))
        return self.post_channel_proj(self.csgu(x, mask, chunk_size))

    def forward_streaming(
        self, x: Tensor, context: LayerStreamingContext, mask: Tensor | None = None
    ) -> Tensor:
        """Maps the next chunk."""
        x = self.activation(self.pre_channel_proj(x))
        return self.post_channel_proj(self.csgu.forward_streaming(x, context, mask))
