"""What every layer that hosts a mixer shares: how it reaches from frame to frame.

A layer is written once, as ``run(x_BTD, frames)``. Its mixer and its convolution, which alone look
at other frames, are called through ``frames``: whole utterances, or the next chunk of streams.

Shape suffixes: B batch, T frames, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.mixers import Chunks, Mixer, StreamState
from summarymixing_modules.ops.convolution import depthwise_conv
from summarymixing_modules.ops.summary import masked


class Frames(ABC):
    """The frames that a layer works on."""

    @abstractmethod
    def mix(self, mixer: Mixer, x_BTD: Tensor) -> Tensor:
        """The output of a mixer."""

    @abstractmethod
    def convolve(
        self, conv: nn.Conv1d, x_BTD: Tensor, causal: bool = False, padding_mode: str = "zeros"
    ) -> Tensor:
        """A depthwise convolution; what is outside an utterance, its ``padding_mode`` says."""


@dataclass(frozen=True)
class Utterances(Frames):
    """Whole utterances.

    Attributes:
        padding_BT: True = padded; None = no frame is.
        chunks: None = full context.
        pos_embs: relative position embeddings, or None.
    """

    padding_BT: Tensor | None = None
    chunks: Chunks | None = None
    pos_embs: Tensor | None = None

    def mix(self, mixer: Mixer, x_BTD: Tensor) -> Tensor:
        """See ``Frames.mix``."""
        return mixer(x_BTD, self.padding_BT, *Chunks.sizes(self.chunks), self.pos_embs)

    def convolve(
        self, conv: nn.Conv1d, x_BTD: Tensor, causal: bool = False, padding_mode: str = "zeros"
    ) -> Tensor:
        """Dynamic chunk convolution (arXiv 2304.09325)."""
        size, _ = Chunks.sizes(self.chunks)
        return depthwise_conv(
            x_BTD, conv.weight, conv.bias, self.padding_BT, size, causal, padding_mode
        )


@dataclass
class LayerStreamingContext:
    """What one layer remembers of a stream.

    Attributes:
        left_context_size: chunks that a chunk sees before its own; None = all the past.
        mixer_state: state of the mixer; None before the first chunk.
        conv_left_BTD: last inputs of the depthwise convolution; None before the first chunk.
    """

    left_context_size: int | None
    mixer_state: StreamState | None = None
    conv_left_BTD: Tensor | None = None


@dataclass(frozen=True)
class StreamChunk(Frames):
    """The next chunk of streams; what it leaves behind is kept in the context.

    Attributes:
        padding_BT: True = padded; None = no frame is.
        context: of the layer; changed.
    """

    padding_BT: Tensor | None
    context: LayerStreamingContext

    def mix(self, mixer: Mixer, x_BTD: Tensor) -> Tensor:
        """See ``Frames.mix``."""
        state, left = self.context.mixer_state, self.context.left_context_size
        if state is None:
            state = mixer.initial_state(len(x_BTD), left, x_BTD.device, x_BTD.dtype)
        y_BTD, self.context.mixer_state = mixer.step(x_BTD, state, self.padding_BT)
        return y_BTD

    def convolve(
        self, conv: nn.Conv1d, x_BTD: Tensor, causal: bool = False, padding_mode: str = "zeros"
    ) -> Tensor:
        """Frames after the chunk are zero, the only ``padding_mode`` of streams."""
        reach = conv.kernel_size[0] - 1
        left = reach if causal else reach // 2
        before_BTD = self.context.conv_left_BTD
        if before_BTD is None:
            before_BTD = x_BTD.new_zeros(x_BTD.shape[0], left, x_BTD.shape[2])
        seen_BTD = torch.cat([before_BTD, masked(x_BTD, self.padding_BT)], dim=1)
        self.context.conv_left_BTD = seen_BTD[:, seen_BTD.shape[1] - left :]
        return depthwise_conv(seen_BTD, conv.weight, conv.bias, causal=causal)[:, left:]


class MixerLayer:
    """SpeechBrain's calls of an encoder layer; the layer itself is ``run``.

    To be named before SpeechBrain's class, which is the module, among the bases of a layer.
    """

    mixer_slot = "mha_layer"  # the attribute that holds the mixer

    @property
    def mixer(self) -> Mixer:
        """The mixer, also where it stands for none."""
        return getattr(self, self.mixer_slot)

    def run(self, x_BTD: Tensor, frames: Frames) -> Tensor:
        """The layer's output."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward``; ``src_mask`` was refused there."""
        size, left = None, None
        if dynchunktrain_config is not None:
            size, left = dynchunktrain_config.chunk_size, dynchunktrain_config.left_context_size
        chunks = self.mixer.chunks_of(size, left)
        return self.run(x, Utterances(src_key_padding_mask, chunks, pos_embs)), None

    def forward_streaming(
        self,
        x: Tensor,
        context: LayerStreamingContext,
        src_key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward_streaming``."""
        return self.run(x, StreamChunk(src_key_padding_mask, context)), None
