"""Fastformer: additive attention (arXiv 2108.09084, §3.2).

With q = W_q x, k = W_k x and the values v = q (as in the paper), for each head of E features::

    q̄ = Σ_t α_t q_t,   α = softmax_t(w_q · q_t / √E)
    k̄ = Σ_t β_t p_t,   β = softmax_t(w_k · p_t / √E),   p_t = k_t ⊙ q̄
    y = W_o (k̄ ⊙ v) + q

The scores w_q · q_t and w_k · p_t of a head read all D features, as in the model that the paper's
authors released; what they pool are the E features of the head.

It takes full context only, because it has no linear form for chunks: q̄, and with it the scores β
of every past key, changes from chunk to chunk, so each chunk needs a softmax of its own,
exp((w_k ⊙ q̄_c) · k_t), over all the past: that is attention, and its stream would keep all keys.

Shape suffixes: B batch, T frames, D model features, H heads, E features of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype
from summarymixing_modules.ops.summary import masked


class Fastformer(Mixer):
    """Additive attention in O(T).

    Since p_t = k_t ⊙ q̄, both w_k · p_t = (w_k ⊙ q̄) · k_t and k̄ = q̄ ⊙ Σ_t β_t k_t: p is never
    made, and both poolings read the projections as they lie in memory.

    Args:
        enc_dim: features D.
        nhead: heads H.
        causal: must be False, see above.

    Raises:
        ValueError: heads that do not divide D.
        UnsupportedByMixer: ``causal=True``.

    Example:
        >>> Fastformer(512, nhead=8)(torch.rand(8, 60, 512)).shape
        torch.Size([8, 60, 512])
    """

    capabilities = Capabilities(linear_time=True, causal=False, chunked=False, streaming=False)

    def __init__(self, enc_dim: int, nhead: int, causal: bool = False) -> None:
        super().__init__(enc_dim, causal)
        if enc_dim % nhead:
            raise ValueError(f"enc_dim={enc_dim} must be a multiple of nhead={nhead}.")
        self.nhead = nhead
        self.query = nn.Linear(enc_dim, enc_dim)
        self.key = nn.Linear(enc_dim, enc_dim)
        # No biases: a softmax does not see them.
        self.query_score = nn.Linear(enc_dim, nhead, bias=False)
        self.key_score = nn.Linear(enc_dim, nhead, bias=False)
        self.output = nn.Linear(enc_dim, enc_dim)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``."""
        x_BTD = masked(x_BTD, padding_BT)
        query_BTD, key_BTD = self.query(x_BTD), self.key(x_BTD)
        score_BHD = self.query_score.weight.expand(x_BTD.shape[0], -1, -1)
        query_B1D = _pool(query_BTD, score_BHD, padding_BT)
        score_BHD = self.key_score.weight * query_B1D
        key_B1D = query_B1D * _pool(key_BTD, score_BHD, padding_BT)
        return self.output(key_B1D * query_BTD) + query_BTD


def _pool(x_BTD: Tensor, score_BHD: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Σ_t softmax_t(score · x_t / √E) x_t, each head's own features, as (B, 1, D).

    Every head pools all D features, and the H − 1 shares that are not its own are dropped: 2·H·D
    operations a frame are cheaper than a copy of x with the heads in front.
    """
    nhead = score_BHD.shape[1]
    features = x_BTD.shape[-1] // nhead
    scores_BHT = score_BHD.to(x_BTD.dtype) @ x_BTD.mT
    scores_BHT = scores_BHT.to(accumulation_dtype(scores_BHT.dtype)) / math.sqrt(features)
    if padding_BT is not None:
        # Not −∞: a row without a real frame would be NaN.
        lowest = torch.finfo(scores_BHT.dtype).min
        scores_BHT = scores_BHT.masked_fill(padding_BT[:, None], lowest)
    weights_BHT = scores_BHT.softmax(dim=-1).to(x_BTD.dtype)
    pooled_BHHE = (weights_BHT @ x_BTD).unflatten(-1, (nhead, features))
    return pooled_BHHE.diagonal(dim1=1, dim2=2).mT.flatten(1)[:, None]


@register_mixer("fastformer", Fastformer.capabilities, source="arXiv 2108.09084, §3.2")
def build_fastformer(size: MixerSize) -> Fastformer:
    """Builds additive attention for a host layer."""
    return Fastformer(size.d_model, size.nhead, size.causal)
