"""FAVOR+: softmax attention estimated with positive random features, in linear time.

Rethinking Attention with Performers, arXiv 2009.14794. With x = query or key · E^(−1/4) and random
directions ω_1 … ω_M (Lemma 1; orthogonal in blocks, §2.4)::

    φ_m(x) = exp( ω_mᵀ x − ‖x‖²/2 )                     E[φ(q)ᵀ φ(k)] / M = exp(qᵀk)
    y_t    = φ(q_t)ᵀ S / φ(q_t)ᵀ z,   S = Σ_i φ(k_i) v_iᵀ,   z = Σ_i φ(k_i)         (Algorithm 1)

Neither a constant in the exponents of a query nor one in those of feature m of all keys, which the
query's feature m gives back, changes y. So exponents of keys are taken relative to the largest of
their utterance, feature by feature, and those of a query so that the largest term of φ(q)ᵀ z is 1:
nothing overflows, no denominator is near zero, and neither other utterances nor a constant like the
paper's ε play a part.

Shape suffixes: B batch, H heads, T frames, C chunks, K frames of a chunk or block, E features of a
head, M random features, X = E + 1 ([S ; z] side by side), L remembered chunks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import (
    Chunks,
    accumulation_dtype,
    sliding_sum,
    visible_TT,
)
from summarymixing_modules.ops.precision import full_precision

# Chunks are grouped to at least this many frames, whose scores among themselves are computed.
GROUP = 128
# A feature of the largest key of an utterance is exp(HEADROOM). A chunk that sees only smaller keys
# loses the feature where they sum up to less than FAINT, 47 powers of ten below.
HEADROOM = 40.0
FAINT = 1e-30
# Stands for log 0 where infinities would meet.
NOTHING = -1e30


class KeySums(NamedTuple):
    """Σ φ(k) [v ; 1] over keys, as exp(top) · sums.

    Attributes:
        top_BLHM: the exponent taken out of each feature.
        sums_BLHMX: the sums without it.
    """

    top_BLHM: Tensor
    sums_BLHMX: Tensor


def orthogonal_features(count: int, features: int) -> Tensor:
    """Draws ω_ME (§2.4): orthogonal in blocks of E, with the lengths of Gaussian vectors.

    Args:
        count: M.
        features: E.
    """
    blocks = [
        nn.init.orthogonal_(torch.empty(features, features))
        for _ in range(math.ceil(count / features))
    ]
    lengths_M1 = torch.randn(count, features).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * lengths_M1


def favor_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    omega_ME: Tensor,
    padding_BT: Tensor | None,
    chunks: Chunks,
) -> Tensor:
    """Estimated attention of each frame over its chunk and the chunks to its left.

    With all the past visible, chunks shorter than ``GROUP`` are grouped: one sum per group, and
    scores within it. With limited left context, there is one sum of M·X numbers per head and chunk.

    Args:
        query_BHTE: queries; T must be a multiple of the chunk size.
        key_BHTE: keys.
        value_BHTE: values.
        omega_ME: directions.
        padding_BT: True = padded; None = no frame is.
        chunks: that of T frames is full context.

    Returns:
        y_BHTE in the dtype of the values; finite also at padded frames.
    """
    length, shape = query_BHTE.shape[2], (-1, chunks.size)
    with full_precision(query_BHTE.device):  # an exponent in bfloat16 is off by several percent
        log_key_BHTM = key_exponents(key_BHTE, omega_ME, padding_BT)
        top_BH1M = log_key_BHTM.detach().amax(dim=2, keepdim=True).clamp(min=NOTHING) - HEADROOM
        phi_key_BHTM = (log_key_BHTM - top_BH1M).exp()
        weight_BHCM = _sliding(phi_key_BHTM.detach().unflatten(2, shape).sum(3), chunks.left)
        log_query_BHTM = query_exponents(query_BHTE, omega_ME) + top_BH1M
        phi_query_BHTM = query_features(
            log_query_BHTM.unflatten(2, shape), weight_BHCM[:, :, :, None]
        ).flatten(2, 3)
        value_BHTX = with_ones(value_BHTE, phi_key_BHTM.dtype)
        if chunks.left is None and chunks.size < min(GROUP, length):
            sums = _grouped_sums(phi_query_BHTM, phi_key_BHTM, value_BHTX, chunks)
        else:
            sums = _sums(phi_query_BHTM, phi_key_BHTM, value_BHTX, chunks)
        return normalised(sums, value_BHTE.dtype)


def _sliding(x_BHCY: Tensor, left: int | None) -> Tensor:
    """``sliding_sum`` of chunks in dimension 2."""
    x_BCHY = x_BHCY.transpose(1, 2)
    return sliding_sum(x_BCHY.flatten(2), left).view(x_BCHY.shape).transpose(1, 2)


def _sums(query_BHTM: Tensor, key_BHTM: Tensor, value_BHTX: Tensor, chunks: Chunks) -> Tensor:
    """φ(q)ᵀ [S ; z] by one sum per chunk."""
    shape = (-1, chunks.size)
    key_BHCKM, value_BHCKX = key_BHTM.unflatten(2, shape), value_BHTX.unflatten(2, shape)
    seen_BHCMX = _sliding(key_BHCKM.mT @ value_BHCKX, chunks.left)
    return (query_BHTM.unflatten(2, shape) @ seen_BHCMX).flatten(2, 3)


def _grouped_sums(
    query_BHTM: Tensor, key_BHTM: Tensor, value_BHTX: Tensor, chunks: Chunks
) -> Tensor:
    """φ(q)ᵀ [S ; z] over all the past, by scores within groups and one sum per group."""
    length = query_BHTM.shape[2]
    size = min(math.ceil(GROUP / chunks.size) * chunks.size, length)
    tail = (0, 0, 0, -length % size)
    query_BHCKM, key_BHCKM, value_BHCKX = (
        F.pad(tensor, tail).unflatten(2, (-1, size))
        for tensor in (query_BHTM, key_BHTM, value_BHTX)
    )
    hidden_KK = ~visible_TT(size, chunks, query_BHTM.device)
    scores_BHCKK = (query_BHCKM @ key_BHCKM.mT).masked_fill(hidden_KK, 0.0)
    until_BHCMX = (key_BHCKM.mT @ value_BHCKX).cumsum(dim=2)
    before_BHCMX = F.pad(until_BHCMX[:, :, :-1], (0, 0, 0, 0, 1, 0))
    sums_BHCKX = scores_BHCKK @ value_BHCKX + query_BHCKM @ before_BHCMX
    return sums_BHCKX.flatten(2, 3)[:, :, :length]


def query_exponents(query_BHTE: Tensor, omega_ME: Tensor) -> Tensor:
    """ωᵀx for queries, at least float32; −‖x‖²/2 is the same for all features and cancels."""
    return _scaled(query_BHTE) @ omega_ME.to(accumulation_dtype(query_BHTE.dtype)).mT


def key_exponents(key_BHTE: Tensor, omega_ME: Tensor, padding_BT: Tensor | None) -> Tensor:
    """ωᵀx − ‖x‖²/2 for keys, at least float32; −∞ where padded."""
    key_BHTE = _scaled(key_BHTE)
    half_BHT1 = key_BHTE.square().sum(dim=-1, keepdim=True) / 2
    log_BHTM = key_BHTE @ omega_ME.to(key_BHTE.dtype).mT - half_BHT1
    if padding_BT is None:
        return log_BHTM
    return log_BHTM.masked_fill(padding_BT[:, None, :, None], -torch.inf)


def _scaled(x_BHTE: Tensor) -> Tensor:
    return x_BHTE.to(accumulation_dtype(x_BHTE.dtype)) * x_BHTE.shape[-1] ** -0.25


def query_features(log_XM: Tensor, weight_XM: Tensor) -> Tensor:
    """φ(q) of each query, such that the largest term of φ(q)ᵀ z is 1.

    Args:
        log_XM: exponents, any leading dimensions.
        weight_XM: z of the keys that the query sees, broadcast; without gradient.
    """
    seen_XM = weight_XM > FAINT
    terms_XM = log_XM.detach() + torch.where(seen_XM, weight_XM, 1.0).log()
    largest_X1 = terms_XM.masked_fill(~seen_XM, NOTHING).amax(dim=-1, keepdim=True)
    return (log_XM - largest_X1).masked_fill(~seen_XM, -torch.inf).exp()


def with_ones(value_BHTE: Tensor, dtype: torch.dtype) -> Tensor:
    """[v ; 1]: one product then gives S and z."""
    return F.pad(value_BHTE.to(dtype), (0, 1), value=1.0)


def normalised(sums_BHTX: Tensor, dtype: torch.dtype) -> Tensor:
    """Splits φ(q)ᵀ [S ; z] and divides; zero where no real frame was seen."""
    weight_BHT1 = sums_BHTX[..., -1:]
    return (sums_BHTX[..., :-1] / torch.where(weight_BHT1 > 0, weight_BHT1, 1.0)).to(dtype)


def favor_step(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    omega_ME: Tensor,
    padding_BT: Tensor | None,
    past: KeySums,
    left: int | None,
) -> tuple[Tensor, KeySums]:
    """``favor_attend`` of the next chunk of a stream.

    Args:
        query_BHTE, key_BHTE, value_BHTE, omega_ME, padding_BT: as there, of one chunk.
        past: sums of the ``left`` chunks before it, or of all the past as one.
        left: chunks to remember; None = all.

    Returns:
        y_BHTE and the next ``past``.
    """
    with full_precision(query_BHTE.device):
        chunk = chunk_key_sums(key_BHTE, value_BHTE, omega_ME, padding_BT)
        parts = KeySums(*(torch.cat(pair, dim=1) for pair in zip(past, chunk, strict=True)))
        seen = joined(parts)
        y_BHTE = read_key_sums(query_BHTE, seen, omega_ME, value_BHTE.dtype)
    return y_BHTE, seen if left is None else KeySums(*(tensor[:, 1:] for tensor in parts))


def chunk_key_sums(
    key_BHTE: Tensor, value_BHTE: Tensor, omega_ME: Tensor, padding_BT: Tensor | None
) -> KeySums:
    """The sums of one chunk, L = 1."""
    log_BHTM = key_exponents(key_BHTE, omega_ME, padding_BT)
    top_BH1M = log_BHTM.detach().amax(dim=2, keepdim=True).clamp(min=NOTHING)
    phi_BHTM = (log_BHTM - top_BH1M).exp()
    sums_BHMX = phi_BHTM.mT @ with_ones(value_BHTE, phi_BHTM.dtype)
    return KeySums(top_BH1M.transpose(1, 2), sums_BHMX[:, None])


def joined(parts: KeySums) -> KeySums:
    """Adds the sums of L chunks up to one."""
    top_B1HM = parts.top_BLHM.amax(dim=1, keepdim=True)
    fade_BLHM1 = (parts.top_BLHM - top_B1HM).exp()[..., None]
    return KeySums(top_B1HM, (parts.sums_BLHMX * fade_BLHM1).sum(dim=1, keepdim=True))


def read_key_sums(
    query_BHTE: Tensor, seen: KeySums, omega_ME: Tensor, dtype: torch.dtype
) -> Tensor:
    """Estimated attention of queries over the keys of sums with L = 1, as y_BHTE."""
    sums_BHMX = seen.sums_BLHMX[:, 0]
    log_BHTM = query_exponents(query_BHTE, omega_ME) + seen.top_BLHM.transpose(1, 2)
    phi_BHTM = query_features(log_BHTM, sums_BHMX[:, :, None, :, -1].detach())
    return normalised(phi_BHTM @ sums_BHMX, dtype)
