"""Conformer (arXiv 2005.08100) with any mixer where self-attention was."""

from __future__ import annotations

from typing import Any

from speechbrain.lobes.models.transformer import Conformer
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders.base import (
    LayerStreamingContext,
    MixerEncoder,
    chunk_arguments,
    step_mixer,
)
from summarymixing_modules.encoders.convolution import MaskedConvolutionModule
from summarymixing_modules.mixers import MixerSize, build_mixer


class ConformerEncoderLayer(Conformer.ConformerEncoderLayer):
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

    def forward(
        self,
        x: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward``; ``src_mask`` was refused there."""
        chunk_size, left_context_size = chunk_arguments(dynchunktrain_config)
        padding = src_key_padding_mask
        x = x + 0.5 * self.ffn_module1(x)
        if self.mixes:
            x = x + self.mha_layer(self.norm1(x), padding, chunk_size, left_context_size, pos_embs)
        else:
            self.mha_layer.chunks_of(chunk_size, left_context_size)  # nobody else would check them
        x = x + self.convolution_module(x, padding, chunk_size)
        return self.norm2(x + 0.5 * self.ffn_module2(x)), None

    def forward_streaming(
        self,
        x: Tensor,
        context: LayerStreamingContext,
        left_context_size: int | None = None,
        src_key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward_streaming``."""
        padding = src_key_padding_mask
        x = x + 0.5 * self.ffn_module1(x)
        if self.mixes:
            x = x + step_mixer(self.mha_layer, self.norm1(x), context, left_context_size, padding)
        x = x + self.convolution_module.forward_streaming(x, context, padding)
        return self.norm2(x + 0.5 * self.ffn_module2(x)), None


class ConformerEncoder(MixerEncoder):
    """A stack of Conformer layers. Argument names and call are SpeechBrain's.

    Args:
        num_layers: how many layers.
        d_model, d_ffn, nhead, kernel_size, activation, bias, dropout, causal, attention_type:
            see ``ConformerEncoderLayer``.
        output_hidden_states: also return the input and the output of every layer.
        layerdrop_prob: probability of leaving a layer out of a training step.
        activation_checkpointing: compute activations again in the backward pass instead of keeping
            them.
        **mixer_options: options of the mixer.

    Example:
        >>> encoder = ConformerEncoder(2, 64, 128, 4, mode="SummaryMixing-fast")
        >>> encoder(torch.rand(8, 60, 64))[0].shape
        torch.Size([8, 60, 64])
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        d_ffn: int,
        nhead: int,
        kernel_size: int = 31,
        activation: type[nn.Module] = nn.SiLU,
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        attention_type: str = "SummaryMixing",
        output_hidden_states: bool = False,
        layerdrop_prob: float = 0.0,
        activation_checkpointing: bool = False,
        **mixer_options: Any,
    ) -> None:
        def make_layer() -> ConformerEncoderLayer:
            return ConformerEncoderLayer(
                d_model,
                d_ffn,
                nhead,
                kernel_size,
                activation,
                bias,
                dropout,
                causal,
                attention_type,
                **mixer_options,
            )

        super().__init__(
            make_layer,
            num_layers,
            d_model,
            attention_type,
            output_hidden_states,
            layerdrop_prob,
            activation_checkpointing,
        )
