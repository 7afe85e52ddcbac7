"""Performer attention (FAVOR+, arXiv 2009.14794): softmax attention by random features, O(T).

Shape suffixes: B batch, T frames, D model features, H heads, E features of a head, M random
features, L remembered chunks, X = E + 1.
"""

from __future__ import annotations

import math

from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.heads import HeadProjections, head_features
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype, pad_to_chunks
from summarymixing_modules.ops.favor import (
    NOTHING,
    KeySums,
    favor_attend,
    favor_step,
    orthogonal_features,
)


class Performer(Mixer):
    """Multi-head attention whose softmax is estimated with M random features per head.

    The directions are drawn when the mixer is built, from PyTorch's random state (so each layer has
    its own, and the seed of a run fixes them), saved with the weights and never drawn again. All
    heads share them. Nothing here knows about time: positions are left to the layers around.
    (Rotary ones would make the estimate, unlike the softmax, depend on absolute time.)

    Args:
        enc_dim: features D.
        nhead: heads H.
        num_features: random features M of a head; None = E · max(1, round(ln E)): whole orthogonal
            blocks, in the order of E·log E as in Theorem 4.
        causal: frame t sees frames up to t only.

    Raises:
        InputError: heads that do not divide D, or no features.
    """

    capabilities = Capabilities(linear_time=True, positions="none")
    omega_ME: Tensor

    def __init__(
        self, enc_dim: int, nhead: int, num_features: int | None = None, causal: bool = False
    ) -> None:
        super().__init__(enc_dim, causal)
        features = head_features(enc_dim, nhead)
        if num_features is None:
            num_features = features * max(1, round(math.log(features)))
        if num_features < 1:
            raise InputError(f"num_features={num_features} must be at least 1.")
        self.nhead = nhead
        self.projections = HeadProjections(enc_dim, nhead)
        self.register_buffer("omega_ME", orthogonal_features(num_features, features))

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``. Full context is one chunk that spans the utterance."""
        length = x_BTD.shape[1]
        chunks = Chunks.spanning(chunks, length)
        x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunks.size)
        query_BHTE, key_BHTE, value_BHTE = self.projections(x_BTD)
        y_BHTE = favor_attend(query_BHTE, key_BHTE, value_BHTE, self.omega_ME, padding_BT, chunks)
        return self.projections.output(y_BHTE[:, :, :length])

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> KeySums:
        """Sums of the chunks that the next one can see, (B, L, H, M, E + 2) numbers; L = 1 entry
        for all the past when the left context is unlimited.
        """
        count, features = self.omega_ME.shape
        shape = (len(x_B0D), 1 if left is None else left, self.nhead, count)
        dtype = accumulation_dtype(x_B0D.dtype)
        return KeySums(
            x_B0D.new_full(shape, NOTHING, dtype=dtype),
            x_B0D.new_zeros((*shape, features + 1), dtype=dtype),
        )

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: KeySums
    ) -> tuple[Tensor, KeySums]:
        query_BHTE, key_BHTE, value_BHTE = self.projections(x_BTD)
        y_BHTE, memory = favor_step(
            query_BHTE, key_BHTE, value_BHTE, self.omega_ME, padding_BT, memory, chunks.left
        )
        return self.projections.output(y_BHTE), memory


@register_mixer(
    "performer",
    Performer.capabilities,
    source="arXiv 2009.14794, §2",
)
def build_performer(size: MixerSize, *, num_features: int | None = None) -> Performer:
    """Builds FAVOR+ attention for a host layer."""
    return Performer(size.d_model, size.nhead, num_features, size.causal)
