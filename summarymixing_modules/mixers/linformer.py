"""Linformer (arXiv 2006.04768, §4): attention to a fixed number of landmarks, O(T).

Shape suffixes: B batch, T frames, P cells of the time axis, D model features, H heads, E features
of a head, L landmarks.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.heads import head_features
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.resample import cell_weights


class Linformer(Mixer):
    """softmax( Q (E·K)ᵀ / √d ) · F·V with learned E and F that shorten time (eq. 7).

    The paper's E and F are L×n for sequences of one length n. Here n is ``resolution`` = P: each
    utterance is first averaged over P equal parts of its own duration (or stretched, if shorter),
    and E and F are learned over those parts, one pair for all heads ("headwise sharing"). A
    landmark thus reads the same relative places of every utterance, of any length, and knows
    nothing of padding. As all of it is linear, time is shortened before K and V are computed.

    Scores know no positions: the host adds them to the input, as in the paper.

    Args:
        enc_dim: features D.
        nhead: heads H.
        landmarks: L, the paper's k.
        resolution: P, the paper's n.
        share_key_value: F = E ("key-value sharing").
        attention_dropout: on the attention weights.

    Raises:
        InputError: heads that do not divide D, or more landmarks than cells.
    """

    capabilities = Capabilities(
        linear_time=True, causal=False, chunked=False, streaming=False, positions="absolute"
    )

    def __init__(
        self,
        enc_dim: int,
        nhead: int,
        landmarks: int = 128,
        resolution: int = 256,
        share_key_value: bool = False,
        attention_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__(enc_dim, causal)
        if not 1 <= landmarks <= resolution:
            raise InputError(
                f"landmarks={landmarks} must be at least 1 and at most resolution={resolution}."
            )
        self.nhead, self.attention_dropout = nhead, attention_dropout
        self.scale = 1 / math.sqrt(head_features(enc_dim, nhead))
        self.query_proj = nn.Linear(enc_dim, enc_dim, bias=False)
        self.key_proj = nn.Linear(enc_dim, enc_dim, bias=False)
        self.value_proj = nn.Linear(enc_dim, enc_dim, bias=False)
        self.out_proj = nn.Linear(enc_dim, enc_dim)
        self.key_landmarks = nn.Linear(resolution, landmarks, bias=False)
        self.value_landmarks = self.key_landmarks
        if not share_key_value:
            self.value_landmarks = nn.Linear(resolution, landmarks, bias=False)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``."""
        weights_BPT = cell_weights(
            x_BTD.shape[1],
            padding_BT,
            self.key_landmarks.in_features,
            x_BTD.device,
            x_BTD.dtype,
        )
        cells_BDP = (weights_BPT @ x_BTD).mT
        key_BLD = self.key_proj(self.key_landmarks(cells_BDP).mT)
        value_BLD = self.value_proj(self.value_landmarks(cells_BDP).mT)
        y_BHTE = F.scaled_dot_product_attention(
            self._heads(self.query_proj(x_BTD)),
            self._heads(key_BLD),
            self._heads(value_BLD),
            dropout_p=self.attention_dropout if self.training else 0.0,
            scale=self.scale,
        )
        return self.out_proj(y_BHTE.transpose(1, 2).flatten(2))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.nhead, -1)).transpose(1, 2)


@register_mixer(
    "linformer",
    Linformer.capabilities,
    source="arXiv 2006.04768, §4",
    forms={"linformer": {}, "linformer-shared": {"share_key_value": True}},
)
def build_linformer(
    size: MixerSize,
    *,
    landmarks: int = 128,
    resolution: int = 256,
    share_key_value: bool = False,
    attention_dropout: float = 0.0,
) -> Linformer:
    """Builds Linformer attention for a host layer."""
    return Linformer(
        size.d_model,
        size.nhead,
        landmarks,
        resolution,
        share_key_value,
        attention_dropout,
        size.causal,
    )
