"""The Linears around multi-head attention, shared by the mixers that differ in the scores.

Shape suffixes: B batch, T frames, D model features, H heads, E = D/H features of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.errors import InputError


def head_features(enc_dim: int, nhead: int, rotary: bool = False) -> int:
    """Features E of a head.

    Args:
        enc_dim: features D.
        nhead: heads H.
        rotary: features are rotated in pairs.

    Raises:
        InputError: heads that do not divide D, or that leave pairs incomplete.
    """
    if enc_dim % nhead or (rotary and (enc_dim // nhead) % 2):
        even = "even " if rotary else ""
        raise InputError(
            f"enc_dim={enc_dim} must give each of nhead={nhead} heads the same {even}number of "
            "features."
        )
    return enc_dim // nhead


def project_heads(x_BTD: Tensor, weight_XD: Tensor, nhead: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, T, E), which lie side by side in each head's rows of W."""
    qkv_BTHX = F.linear(x_BTD, weight_XD).unflatten(-1, (nhead, -1))
    query_BHTE, key_BHTE, value_BHTE = qkv_BTHX.transpose(1, 2).chunk(3, dim=-1)
    return query_BHTE, key_BHTE, value_BHTE


class HeadProjections(nn.Module):
    """Queries, keys, values and output (arXiv 1706.03762, §3.2.2), with the sizes of ``RoPEMHA``.

    Args:
        enc_dim: features D, a multiple of nhead.
        nhead: heads H.
    """

    def __init__(self, enc_dim: int, nhead: int) -> None:
        super().__init__()
        self.nhead = nhead
        self.in_proj_weight = nn.Parameter(torch.empty(3 * enc_dim, enc_dim))
        self.out_proj = nn.Linear(enc_dim, enc_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values as (B, H, T, E)."""
        return project_heads(x_BTD, self.in_proj_weight, self.nhead)

    def output(self, y_BHTE: Tensor) -> Tensor:
        """Merges the heads; returns y_BTD."""
        return self.out_proj(y_BHTE.transpose(1, 2).flatten(2))
