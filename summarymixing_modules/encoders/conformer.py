"""Conformer (arXiv 2005.08100) with any mixer where self-attention was."""

from __future__ import annotations

from typing import Any

from speechbrain.lobes.models.transformer import Conformer
from torch import Tensor, nn

from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.encoders.convolution import MaskedConvolutionModule
from summarymixing_modules.encoders.layer import Frames, MixerLayer
from summarymixing_modules.mixers import MixerSize, build_mixer


class ConformerEncoderLayer(MixerLayer, Conformer.ConformerEncoderLayer):
    """½ feed-forward, mixer, convolution, ½ feed-forward, LayerNorm.

    Without a mixer (``attention_type="cnnonly"``) its step is left out, with its LayerNorm.

    Args:
        d_model: features D.
        d_ffn: hidden size of the feed-forward modules.
        nhead: heads of the mixer.
        kernel_size: frames of the depthwise convolution; odd.
        activation: class; ``nn.SiLU`` is Swish.
        bias: of the convolution module.
        dropout: everywhere.
        causal: neither mixer nor convolution sees the future.
        attention_type: name of the mixer.
        **mixer_options: its options.
    """

    def __init__(
        self,
        d_model: int,
        d_ffn: int,
        nhead: int,
        kernel_size: int = 31,
        activation: type[nn.Module] = nn.SiLU,
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        attention_type: str = "SummaryMixing",
        **mixer_options: Any,
    ) -> None:
        # SpeechBrain makes no attention layer for a name that it does not know.
        super().__init__(
            d_model,
            d_ffn,
            nhead,
            kernel_size,
            activation=activation,
            bias=bias,
            dropout=dropout,
            causal=causal,
            attention_type="none",
        )
        size = MixerSize(d_model, nhead, d_ffn, dropout, activation, causal)
        self.mha_layer = build_mixer(attention_type, size, **mixer_options)
        self.mixes = self.mha_layer.capabilities.mixes
        if not self.mixes:
            del self.norm1
        self.convolution_module = MaskedConvolutionModule(
            d_model, kernel_size, bias, activation, dropout, causal=causal
        )

    def run(self, x: Tensor, frames: Frames) -> Tensor:
        """See ``MixerLayer.run``."""
        x = x + 0.5 * self.ffn_module1(x)
        if self.mixes:
            x = x + frames.mix(self.mha_layer, self.norm1(x))
        x = x + self.convolution_module(x, frames)
        return self.norm2(x + 0.5 * self.ffn_module2(x))


class ConformerEncoder(MixerEncoder):
    """A stack of ``ConformerEncoderLayer``; arguments as in ``MixerEncoder``.

    Example:
        >>> encoder = ConformerEncoder(2, 64, 128, 4, mode="SummaryMixing-fast")
        >>> encoder(torch.rand(8, 60, 64))[0].shape
        torch.Size([8, 60, 64])
    """

    layer_class = ConformerEncoderLayer
