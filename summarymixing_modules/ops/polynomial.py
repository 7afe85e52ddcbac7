"""Polynomial mixing (arXiv 2411.12663) without keeping what its elementwise halves make.

Every frame makes k·E numbers for the mean and as many for the gate, where E = D·d is twice the
model's width or more: what is kept of them decides what the mixer costs. Kept for backward are the
outputs of the two Linears; monomials, gates and their product with the mean are computed again.
(One product for both Linears is no faster, and its halves would have to be joined for backward.)

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D model features, E features of a
degree, P = k·E.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import Chunks, accumulation_dtype
from summarymixing_modules.ops.recompute import recomputed
from summarymixing_modules.ops.summary import chunk_counts, masked, means_of_sums


def monomials(factors_BTP: Tensor, degree: int, padding_BT: Tensor | None) -> Iterator[Tensor]:
    """p_1 = g_1, p_m = p_{m−1} ∘ g_m with g = GELU of the factors, each (B, T, E); 0 at padding.

    GELU(0) = 0, and every monomial has p_1 in it: one mask is enough.
    """
    first_BTE, *others = factors_BTP.chunk(degree, dim=-1)
    product_BTE = F.gelu(masked(first_BTE, padding_BT))
    yield product_BTE
    for factor_BTE in others:
        product_BTE = product_BTE * F.gelu(factor_BTE)
        yield product_BTE


def monomial_means(
    factors_BTP: Tensor, degree: int, padding_BT: Tensor | None, chunks: Chunks
) -> Tensor:
    """H of every chunk: the means of p_1 … p_k over the chunk and its left context.

    Args:
        factors_BTP: W_m x, the degrees one after the other; T is a multiple of the chunk size.
        degree: k.
        padding_BT: True = padded.
        chunks: that of T frames is full context.

    Returns:
        mean_BCP, in the dtype of the factors.
    """
    sums_BCP = recomputed(_sums, factors_BTP, degree, padding_BT, chunks.size)
    counts_BC = chunk_counts(sums_BCP, padding_BT, chunks.size)
    return means_of_sums(sums_BCP, counts_BC, chunks.left).to(factors_BTP.dtype)


def gated_output(gate_BTP: Tensor, mean_BCP: Tensor, weight_DP: Tensor, bias_D: Tensor) -> Tensor:
    """W_o [σ(gate) ∘ H] + b, with one H per chunk.

    Args:
        gate_BTP: W_s x.
        mean_BCP: H; C divides T.
        weight_DP: W_o.
        bias_D: b.

    Returns:
        y_BTD.
    """
    return recomputed(_output, gate_BTP, mean_BCP, weight_DP, bias_D)


def _sums(factors_BTP: Tensor, degree: int, padding_BT: Tensor | None, chunk_size: int) -> Tensor:
    dtype = accumulation_dtype(factors_BTP.dtype)
    sums = [
        p_BTE.unflatten(1, (-1, chunk_size)).sum(dim=2, dtype=dtype)
        for p_BTE in monomials(factors_BTP, degree, padding_BT)
    ]
    return torch.cat(sums, dim=-1)


def _output(gate_BTP: Tensor, mean_BCP: Tensor, weight_DP: Tensor, bias_D: Tensor) -> Tensor:
    gate_BCKP = gate_BTP.sigmoid().unflatten(1, (mean_BCP.shape[1], -1))
    read_BTP = (gate_BCKP * mean_BCP[:, :, None]).flatten(1, 2)
    return F.linear(read_BTP, weight_DP, bias_D)
