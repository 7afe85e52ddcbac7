"""The Transformer encoder (arXiv 1706.03762, §3.1) with any mixer where self-attention was."""

from __future__ import annotations

from typing import Any

from speechbrain.lobes.models.transformer import Transformer
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders.base import (
    LayerStreamingContext,
    MixerEncoder,
    chunk_arguments,
    step_mixer,
)
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerSize, build_mixer, mixer_spec


def require_mixing(attention_type: str, host: str) -> None:
    """Refuses the absence of a mixer in a layer where nothing else exchanges between frames.

    Args:
        attention_type: registered name.
        host: what the mixer is for, for the message.

    Raises:
        InputError: unknown name, or one that does not mix.
    """
    if not mixer_spec(attention_type).capabilities.mixes:
        raise InputError(
            f"attention_type={attention_type!r} leaves {host} without any exchange between frames, "
            "as it has no convolution: choose a mixer, or encoder_module=conformer or branchformer."
        )


class TransformerEncoderLayer(Transformer.TransformerEncoderLayer):
    """A mixer and a feed-forward network, each with a residual connection and a LayerNorm.

    Nothing but the mixer tells frames apart by their place: a mixer without an order of its own
    (SummaryMixing) needs positions in its input, which ``TransformerASR`` adds.

    Argument names are SpeechBrain's; its ``ffn_type="1dcnn"``, whose convolutions read padding, and
    its ``kdim`` and ``vdim``, which are attention's, are left out.

    Args:
        d_ffn: hidden size of the feed-forward network.
        nhead: heads of the mixer.
        d_model: features D.
        dropout: everywhere.
        activation: class.
        normalize_before: normalise the input of each part ("pre-norm"), not the sum after it.
        attention_type: name of the mixer.
        causal: no frame sees the future.
        **mixer_options: options of the mixer.

    Raises:
        InputError: ``attention_type`` stands for no mixer.
    """

    def __init__(
        self,
        d_ffn: int,
        nhead: int,
        d_model: int,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.ReLU,
        normalize_before: bool = False,
        attention_type: str = "SummaryMixing",
        causal: bool = False,
        **mixer_options: Any,
    ) -> None:
        require_mixing(attention_type, "a Transformer layer")
        # SpeechBrain makes no attention layer for a name that it does not know.
        super().__init__(
            d_ffn,
            nhead,
            d_model,
            dropout=dropout,
            activation=activation,
            normalize_before=normalize_before,
            attention_type="none",
            causal=causal,
        )
        size = MixerSize(d_model, nhead, d_ffn, dropout, activation, causal)
        self.self_att = build_mixer(attention_type, size, **mixer_options)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward``; ``src_mask`` was refused there."""
        chunk_size, left_context_size = chunk_arguments(dynchunktrain_config)
        mixed = self.self_att(
            self._before(self.norm1, src),
            src_key_padding_mask,
            chunk_size,
            left_context_size,
            pos_embs,
        )
        return self._finish(src, mixed), None

    def forward_streaming(
        self,
        src: Tensor,
        context: LayerStreamingContext,
        left_context_size: int | None = None,
        src_key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward_streaming``."""
        normed = self._before(self.norm1, src)
        mixed = step_mixer(self.self_att, normed, context, left_context_size, src_key_padding_mask)
        return self._finish(src, mixed), None

    def _finish(self, src: Tensor, mixed: Tensor) -> Tensor:
        """Everything after the mixer."""
        src = self._after(self.norm1, src + self.dropout1(mixed))
        output = self.pos_ffn(self._before(self.norm2, src))
        return self._after(self.norm2, src + self.dropout2(output))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.normalize_before else x

    def _after(self, norm: nn.Module, x: Tensor) -> Tensor:
        return x if self.normalize_before else norm(x)


class TransformerEncoder(MixerEncoder):
    """A stack of Transformer layers. Argument names and call are SpeechBrain's.

    Args:
        num_layers: how many layers.
        nhead, d_ffn, d_model, dropout, activation, normalize_before, causal, attention_type: see
            ``TransformerEncoderLayer``.
        layerdrop_prob: probability of leaving a layer out of a training step.
        activation_checkpointing: compute activations again in the backward pass instead of keeping
            them.
        output_hidden_states: also return the input and the output of every layer.
        **mixer_options: options of the mixer.

    Example:
        >>> encoder = TransformerEncoder(2, 4, 128, 64, normalize_before=True)
        >>> encoder(torch.rand(8, 60, 64))[0].shape
        torch.Size([8, 60, 64])
    """

    def __init__(
        self,
        num_layers: int,
        nhead: int,
        d_ffn: int,
        d_model: int,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.ReLU,
        normalize_before: bool = False,
        causal: bool = False,
        layerdrop_prob: float = 0.0,
        attention_type: str = "SummaryMixing",
        output_hidden_states: bool = False,
        activation_checkpointing: bool = False,
        **mixer_options: Any,
    ) -> None:
        def make_layer() -> TransformerEncoderLayer:
            return TransformerEncoderLayer(
                d_ffn,
                nhead,
                d_model,
                dropout,
                activation,
                normalize_before,
                attention_type,
                causal,
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
