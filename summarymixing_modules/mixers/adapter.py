"""SpeechBrain's attention call around a mixer, so that stock encoders can host one."""

from __future__ import annotations

from torch import Tensor, nn

from summarymixing_modules.mixers.base import Mixer
from summarymixing_modules.ops.chunks import Chunks


class MixerAdapter(nn.Module):
    """Answers ``(query, key, value, attn_mask, key_padding_mask, pos_embs) → (output, None)``.

    For layers of SpeechBrain that are used as they are (``layer.mha_layer = MixerAdapter(mixer)``).
    The encoders of this package call their mixers directly.

    Args:
        mixer: any mixer.
    """

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Mixes ``query``; the attention weights of the usual call do not exist.

        Raises:
            ValueError: cross-attention, or a dense mask.
        """
        if key is not query or value is not query:
            raise ValueError("a token mixer is self-attention only: query, key, value must be one.")
        sizes, pos_embs = Chunks.sizes(self._chunks(attn_mask)), self._positions(pos_embs)
        return self.mixer(query, key_padding_mask, *sizes, pos_embs), None

    def _chunks(self, attn_mask: Tensor | None) -> Chunks | None:
        """The chunks that the host asks for."""
        if attn_mask is not None:
            raise ValueError(
                "a token mixer takes no dense attn_mask: for chunks use the encoders of "
                "summarymixing_modules.encoders with dynchunktrain_config, for causal models "
                "causal=True."
            )
        return None

    def _positions(self, pos_embs: Tensor | None) -> Tensor | None:
        """The position embeddings that the mixer is given."""
        return pos_embs
