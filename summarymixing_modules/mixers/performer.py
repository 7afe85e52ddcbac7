"""Performer attention (FAVOR+, arXiv 2009.14794): softmax attention by random features, O(T).

Shape suffixes: B batch, T frames, D model features, H heads, E features of a head, M random
features, L remembered chunks, X = E + 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.heads import HeadProjections, head_features
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.chunks import accumulation_dtype, pad_to_chunks
from summarymixing_modules.ops.favor import (
    NOTHING,
    KeySums,
    chunk_key_sums,
    favor_attend,
    full_precision,
    joined,
    orthogonal_features,
    read_key_sums,
)


class PerformerState(NamedTuple):
    """What a stream remembers, whatever its length.

    Attributes:
        past: sums of the chunks that the next one can see; a single entry for all the past when
            the left context is unlimited.
        left_context_size: chunks to remember; None = all.
    """

    past: KeySums
    left_context_size: int | None


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

    def mix(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int | None,
        left_context_size: int | None,
        pos_embs: Tensor | None = None,
    ) -> Tensor:
        """See ``Mixer.forward``. Full context is one chunk that spans the utterance."""
        length = x_BTD.shape[1]
        chunk_size = min(chunk_size or length, length)
        x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunk_size)
        query_BHTE, key_BHTE, value_BHTE = self.projections(x_BTD)
        y_BHTE = favor_attend(
            query_BHTE,
            key_BHTE,
            value_BHTE,
            self.omega_ME,
            padding_BT,
            chunk_size,
            left_context_size,
        )
        return self.projections.output(y_BHTE[:, :, :length])

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> PerformerState:
        """See ``Mixer.initial_state``. (B, L, H, M, E + 2) numbers, however long the stream."""
        count, features = self.omega_ME.shape
        remembered = 1 if left_context_size is None else left_context_size
        shape = (batch_size, remembered, self.nhead, count)
        anchor = self._anchor()
        device, dtype = device or anchor.device, accumulation_dtype(dtype or anchor.dtype)
        past = KeySums(
            torch.full(shape, NOTHING, device=device, dtype=dtype),
            torch.zeros((*shape, features + 1), device=device, dtype=dtype),
        )
        return PerformerState(past, left_context_size)

    def step(
        self, x_BTD: Tensor, state: PerformerState, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, PerformerState]:
        """See ``Mixer.step``."""
        self._check_input(x_BTD, key_padding_mask)
        query_BHTE, key_BHTE, value_BHTE = self.projections(x_BTD)
        with full_precision(x_BTD.device):
            chunk = chunk_key_sums(key_BHTE, value_BHTE, self.omega_ME, key_padding_mask)
            parts = KeySums(
                *(torch.cat(pair, dim=1) for pair in zip(state.past, chunk, strict=True))
            )
            seen = joined(parts)
            y_BHTE = read_key_sums(query_BHTE, seen, self.omega_ME, value_BHTE.dtype)
        limit = state.left_context_size
        past = seen if limit is None else KeySums(*(tensor[:, 1:] for tensor in parts))
        return self.projections.output(y_BHTE), state._replace(past=past)


@register_mixer(
    "performer",
    Performer.capabilities,
    source="arXiv 2009.14794, §2",
    variants={"performer": {}},
)
def build_performer(size: MixerSize, *, num_features: int | None = None) -> Performer:
    """Builds FAVOR+ attention for a host layer."""
    return Performer(size.d_model, size.nhead, num_features, size.causal)
