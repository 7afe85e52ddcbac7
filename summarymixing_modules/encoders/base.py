"""What every encoder shares: the stack of layers, layer drop, hidden states, streaming.

The call is SpeechBrain's. Shape suffixes: B batch, T frames, D model features.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from speechbrain.nnet.attention import RelPosEncXL
from speechbrain.nnet.normalization import LayerNorm
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders.checkpointing import run_layer
from summarymixing_modules.encoders.layer import LayerStreamingContext, MixerLayer
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Chunks, Mixer, mixer_spec


@dataclass
class EncoderStreamingContext:
    """What an encoder remembers of a stream; changed by ``forward_streaming``.

    Attributes:
        dynchunktrain_config: chunk size in frames and left context in chunks.
        layers: one context for each layer.
        ended: a chunk shorter than the chunk size was seen, which can only be the last.
    """

    dynchunktrain_config: DynChunkTrainConfig
    layers: list[LayerStreamingContext] = field(default_factory=list)
    ended: bool = False

    def admit(self, length: int) -> None:
        """Checks the length of the next chunk.

        Raises:
            ValueError: a chunk that is empty or too long, or that follows a short one.
        """
        chunk_size = self.dynchunktrain_config.chunk_size
        if not 0 < length <= chunk_size:
            raise ValueError(
                f"forward_streaming takes one chunk of 1 to {chunk_size} frames and got "
                f"{length}: cut the input, or make the context with a larger chunk_size."
            )
        if self.ended:
            raise ValueError(
                f"a chunk of less than {chunk_size} frames ends a stream, and one has been given: "
                "make a new context for the next stream."
            )
        self.ended = length < chunk_size


class MixerEncoder(nn.Module):
    """A stack of layers that host mixers, with SpeechBrain's argument names and call.

    Args:
        num_layers: how many.
        *sizes: first arguments of the layer, in its order.
        attention_type: name of the mixer in the layers.
        output_hidden_states: also return the input and the output of every layer.
        layerdrop_prob: probability of leaving a layer out of a training step (arXiv 1909.11556).
            Its gradients are zeros then, so that a parameter's momentum and weight decay are those
            of every step, with one process as with many, and DDP misses none.
        activation_checkpointing: keep of every layer its input only, and compute the rest again in
            the backward pass: less memory, more time.
        **options: further arguments of the layer, and options of the mixer.
    """

    layer_class: type[nn.Module]  # a MixerLayer, too

    def __init__(
        self,
        num_layers: int,
        *sizes: Any,
        attention_type: str = "SummaryMixing",
        output_hidden_states: bool = False,
        layerdrop_prob: float = 0.0,
        activation_checkpointing: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.attention_type = attention_type
        self.output_hidden_states = output_hidden_states
        self.layerdrop_prob = layerdrop_prob
        self.activation_checkpointing = activation_checkpointing
        of_layer = inspect.signature(self.layer_class).bind(
            *sizes, attention_type=attention_type, **options
        )
        self.layers = nn.ModuleList(
            self.layer_class(*of_layer.args, **of_layer.kwargs) for _ in range(num_layers)
        )
        d_model = of_layer.arguments["d_model"]
        self.norm = LayerNorm(d_model, eps=1e-6)
        self.positions = mixer_spec(attention_type).capabilities.positions
        if self.positions == "relative":
            self.relative_positions = RelPosEncXL(d_model)

    @property
    def mixers(self) -> list[Mixer]:
        """Those of the layers, also where they stand for none."""
        return [cast("MixerLayer", layer).mixer for layer in self.layers]

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, list[None]] | tuple[Tensor, list[None], list[Tensor]]:
        """Encodes utterances.

        Args:
            src: (B, T, D).
            src_mask: must be None; chunks are asked for with ``dynchunktrain_config``.
            src_key_padding_mask: (B, T), True = padded.
            pos_embs: relative position embeddings, made here when a mixer needs them.
            dynchunktrain_config: chunk size in frames and left context in chunks.

        Returns:
            output (B, T, D); a list of None, where SpeechBrain has attention weights; with
            ``output_hidden_states`` the list of the input and every layer's output, before the
            final norm.

        Raises:
            ValueError: a dense ``src_mask``, or ``pos_embs`` that no mixer here uses.
        """
        if src_mask is not None:
            raise ValueError(
                "these encoders take no dense src_mask: ask for chunks with dynchunktrain_config, "
                "for a causal encoder with causal=True."
            )
        if pos_embs is not None and self.positions != "relative":
            raise ValueError(f"{self.attention_type} does not use pos_embs: leave it None.")
        if self.positions == "relative" and pos_embs is None:
            pos_embs = self.relative_positions(src)
        output, weights, hidden = src, [], [src]
        dropped = self._dropped_layers()
        for index, layer in enumerate(self.layers):
            if index in dropped:
                output = with_zero_gradients(layer, output)
                continue
            output, weight = run_layer(
                layer,
                self.activation_checkpointing,
                output,
                src_key_padding_mask=src_key_padding_mask,
                pos_embs=pos_embs,
                dynchunktrain_config=dynchunktrain_config,
            )
            weights.append(weight)
            hidden.append(output)
        output = self.norm(output)
        return (output, weights, hidden) if self.output_hidden_states else (output, weights)

    def _dropped_layers(self) -> set[int]:
        if not self.training or self.layerdrop_prob == 0.0:
            return set()
        draws = torch.rand(len(self.layers)).tolist()
        return {index for index, draw in enumerate(draws) if draw < self.layerdrop_prob}

    def make_streaming_context(
        self, dynchunktrain_config: DynChunkTrainConfig
    ) -> EncoderStreamingContext:
        """An empty context for a new (batch of) stream(s).

        A causal encoder takes ``chunk_size`` frames at a time and makes of them what ``forward``
        makes without chunks: its chunks are of one frame.

        Raises:
            InputError: numbers that mean nothing, or a left context in longer chunks of a causal
                encoder.
        """
        config = dynchunktrain_config
        chunks = Chunks(config.chunk_size, config.left_context_size)
        causal = any(mixer.causal for mixer in self.mixers)
        if causal and chunks.size > 1 and chunks.left is not None:
            raise InputError(
                f"left_context_size={chunks.left} of a causal encoder counts single frames, and "
                f"chunk_size={chunks.size}: leave left_context_size out, for all the past, or give "
                "chunk_size=1 and the left context in frames."
            )
        layers = [LayerStreamingContext(chunks.left) for _ in self.layers]
        return EncoderStreamingContext(config, layers)

    def forward_streaming(
        self,
        src: Tensor,
        context: EncoderStreamingContext,
        pos_embs: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[None]]:
        """Encodes the next chunk; equal to ``forward`` with the context's chunk settings, or, of a
        causal encoder, without chunks.

        Args:
            src: (B, T, D): one chunk; the last of a stream may be shorter.
            context: from ``make_streaming_context``; changed in place.
            pos_embs: must be None: mixers place chunks by themselves.
            src_key_padding_mask: (B, T), True = padded: streams that ended inside this chunk.

        Returns:
            output (B, T, D) and a list of None.

        Raises:
            ValueError: a chunk of a wrong length.
        """
        if pos_embs is not None:
            raise ValueError("forward_streaming makes its own positions: leave pos_embs None.")
        context.admit(src.shape[1])
        output, weights = src, []
        for layer, layer_context in zip(self.layers, context.layers, strict=True):
            output, weight = layer.forward_streaming(  # type: ignore[operator]
                output, layer_context, src_key_padding_mask
            )
            weights.append(weight)
        return self.norm(output), weights


def with_zero_gradients(layer: nn.Module, x_BTD: Tensor) -> Tensor:
    """The same values, which depend on every parameter of a layer with a gradient of zero.

    The layer has nothing to do with the loss, so zero is its gradient; without this it would have
    none, which DDP takes for a fault, and which optimizers take for another rule. What is added is
    the sum of no element: it reads no weight, and is zero whatever the weights are.
    """
    nothing = torch.cat([parameter.flatten()[:0] for parameter in layer.parameters()])
    return x_BTD + nothing.sum()
