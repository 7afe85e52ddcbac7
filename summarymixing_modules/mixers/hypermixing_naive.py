"""The textbook form of HyperMixing, for tests and as the yardstick of the benchmark.

It evaluates the parameters of a ``HyperMixing`` layer as arXiv 2203.03691 writes it: W1 and W2 of
every frame are made, once for each chunk that sees the frame. ``mixer.double()`` makes it a float64
reference.

Shape suffixes: B batch, T frames, D model features, H heads, E features of a head, M mixing units.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.mixers.hypermixing import HyperMixing, HyperNetwork
from summarymixing_modules.ops.positions import sine_positions
from summarymixing_modules.ops.summary import masked


def naive_hyper_mixing(
    mixer: HyperMixing,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """y_BTD of a layer by the textbook; every chunk generates W1 and W2 of all that it sees.

    Args:
        mixer: whose parameters to use.
        x_BTD: input.
        padding_BT: True = padded.
        chunk_size: frames of a chunk; None = full context.
        left_context_size: chunks to the left; None = all of them.
    """
    length = x_BTD.shape[1]
    chunk_size = chunk_size or length
    parts = []
    for start in range(0, length, chunk_size):
        first = 0 if left_context_size is None else max(0, start - left_context_size * chunk_size)
        seen = slice(first, start + chunk_size)
        hidden_BT = None if padding_BT is None else padding_BT[:, seen]
        y_BTD = _naive_window(mixer, x_BTD[:, seen], hidden_BT)
        parts.append(y_BTD[:, start - first :])
    return torch.cat(parts, dim=1)


def _naive_window(mixer: HyperMixing, x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
    x_BTD = masked(x_BTD, padding_BT)
    positions_TD = sine_positions(x_BTD.shape[1], x_BTD.shape[2], 0, x_BTD.device)
    tokens_BTD = x_BTD + positions_TD.to(x_BTD.dtype)
    tokens_BTHE = tokens_BTD.unflatten(-1, (mixer.nhead, -1))
    w1_BTHM = _generate(mixer.first, tokens_BTHE, padding_BT)
    w2_BTHM = _generate(mixer.second or mixer.first, tokens_BTHE, padding_BT)
    x_BTHE = x_BTD.unflatten(-1, (mixer.nhead, -1))
    mixed_BHEM = F.gelu(torch.einsum("bthe,bthm->bhem", x_BTHE, w1_BTHM))
    return mixer.norm(torch.einsum("bhem,bthm->bthe", mixed_BHEM, w2_BTHM).flatten(2))


def _generate(net: HyperNetwork, tokens_BTHE: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Rows of W1 or W2, zero where padded, as (B, T, H, M)."""
    hidden = torch.einsum("bthe,hef->bthf", tokens_BTHE, net.hidden.weight)
    hidden = F.gelu(hidden + net.hidden.bias.squeeze(1))
    rows_BTHM = torch.einsum("bthf,hfm->bthm", hidden, net.output.weight)
    rows_BTHM = rows_BTHM + net.output.bias.squeeze(1)
    if padding_BT is None:
        return rows_BTHM
    return rows_BTHM.masked_fill(padding_BT[..., None, None], 0.0)
