"""The Transformer encoder (arXiv 1706.03762, §3.1) with any mixer where self-attention was."""

from __future__ import annotations

from typing import Any

from speechbrain.lobes.models.transformer import Transformer
from torch import Tensor, nn

from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.encoders.layer import Frames, MixerLayer
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


class TransformerEncoderLayer(MixerLayer, Transformer.TransformerEncoderLayer):
    """A mixer and a feed-forward network, each with a residual connection and a LayerNorm.

    Nothing but the mixer tells frames apart by their place: a mixer without an order of its own
    (SummaryMixing) needs positions in its input, which ``TransformerASR`` adds.

    Argument names are SpeechBrain's, in the order of its encoder; its ``ffn_type="1dcnn"``, whose
    convolutions read padding, and its ``kdim`` and ``vdim``, which are attention's, are left out.

    Args:
        nhead: heads of the mixer.
        d_ffn: hidden size of the feed-forward network.
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

    mixer_slot = "self_att"

    def __init__(
        self,
        nhead: int,
        d_ffn: int,
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

    def run(self, x: Tensor, frames: Frames) -> Tensor:
        """See ``MixerLayer.run``."""
        mixed = frames.mix(self.self_att, self._before(self.norm1, x))
        x = self._after(self.norm1, x + self.dropout1(mixed))
        output = self.pos_ffn(self._before(self.norm2, x))
        return self._after(self.norm2, x + self.dropout2(output))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.normalize_before else x

    def _after(self, norm: nn.Module, x: Tensor) -> Tensor:
        return x if self.normalize_before else norm(x)


class TransformerEncoder(MixerEncoder):
    """A stack of ``TransformerEncoderLayer``; arguments as in ``MixerEncoder``.

    Example:
        >>> encoder = TransformerEncoder(2, 4, 128, 64, normalize_before=True)
        >>> encoder(torch.rand(8, 60, 64))[0].shape
        torch.Size([8, 60, 64])
    """

    layer_class = TransformerEncoderLayer
