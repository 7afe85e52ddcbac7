"""Block-sparse softmax attention: a window, global blocks and random blocks, in O(T).

Big Bird, arXiv 2007.14062, §2 and its blocked implementation (appendix D). Blocks are K frames. A
query of block i sees

* the blocks i − w … i + w,
* the first g blocks of the utterance, whose own queries see every frame (ITC: some frames of the
  sequence are global), and
* r of its other blocks, drawn without replacement.

The draw depends on i and on the number of blocks of real frames, not on T or on other utterances.

Shape suffixes: B batch, H heads, T frames, N blocks, K frames of a block, E features of a head,
J key blocks of a query block, V random blocks, P period of the draws, R = B·N, S = J·K.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.attention import attend

PERIOD = 1024
# Draws stay whole numbers when checkpoints are averaged in float32.
DRAWS = 2**16


def draw_blocks(random_blocks: int) -> Tensor:
    """Random numbers (P, V) from which the random blocks of query block i mod P follow."""
    return torch.randint(DRAWS, (PERIOD, random_blocks))


def block_sparse_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    draws_PV: Tensor,
    block_size: int,
    window_blocks: int,
    global_blocks: int,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each frame over the blocks that its block sees.

    The key blocks of each query block are copied next to each other, so that all blocks of all
    utterances are one fused call; the global queries are another.

    Args:
        query_BHTE: queries.
        key_BHTE: keys.
        value_BHTE: values.
        padding_BT: True = padded; None = no frame is.
        draws_PV: from ``draw_blocks``.
        block_size: frames of a block K.
        window_blocks: blocks to each side of a query's own, w.
        global_blocks: g.
        scale: factor of the scores.
        dropout: probability on the attention weights.

    Returns:
        y_BHTE; finite also at padded frames.
    """
    batch, _, length, _ = query_BHTE.shape
    everywhere = min(global_blocks * block_size, length)
    global_BHGE = attend(
        query_BHTE[:, :, :everywhere], key_BHTE, value_BHTE, padding_BT, None, scale, dropout
    )
    if everywhere == length:
        return global_BHGE
    if padding_BT is None:
        padding_BT = torch.zeros((batch, length), dtype=torch.bool, device=query_BHTE.device)
    index_BNJ, seen_BNJ = _key_blocks(
        padding_BT, draws_PV, block_size, window_blocks, global_blocks
    )
    hidden_RK = F.pad(padding_BT, (0, -length % block_size), value=True).reshape(-1, block_size)
    first_B11 = torch.arange(batch, device=index_BNJ.device)[:, None, None] * index_BNJ.shape[1]
    index_X = (first_B11 + index_BNJ).flatten()
    hidden_RJK = hidden_RK[index_X].view(hidden_RK.shape[0], -1, block_size)
    seen_RS = (seen_BNJ.flatten(0, 1)[..., None] & ~hidden_RJK).flatten(1)
    seen_RS = seen_RS | ~seen_RS.any(dim=1, keepdim=True)  # a softmax over nothing is NaN
    y_RHKE = F.scaled_dot_product_attention(
        _blocks(query_BHTE, block_size).transpose(1, 2),
        _gathered(_blocks(key_BHTE, block_size), index_X),
        _gathered(_blocks(value_BHTE, block_size), index_X),
        attn_mask=seen_RS[:, None, None],
        dropout_p=dropout,
        scale=scale,
    )
    y_BHTE = y_RHKE.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([global_BHGE, y_BHTE[:, :, everywhere:length]], dim=2)


def _blocks(x_BHTE: Tensor, block_size: int) -> Tensor:
    """Frames in blocks, as (R, K, H, E)."""
    padded_BHTE = F.pad(x_BHTE, (0, 0, 0, -x_BHTE.shape[2] % block_size))
    return padded_BHTE.unflatten(2, (-1, block_size)).permute(0, 2, 3, 1, 4).flatten(0, 1)


def _gathered(x_RKHE: Tensor, index_X: Tensor) -> Tensor:
    """The key blocks of each query block side by side, as (R, H, S, E)."""
    blocks_XKHE = x_RKHE.index_select(0, index_X)
    return blocks_XKHE.view(x_RKHE.shape[0], -1, *x_RKHE.shape[2:]).transpose(1, 2)


def _key_blocks(
    padding_BT: Tensor, draws_PV: Tensor, block_size: int, window: int, global_blocks: int
) -> tuple[Tensor, Tensor]:
    """Indices (B, N, J) of the key blocks of every query block, and whether each one counts.

    Those of the global query blocks are not right, and not used.
    """
    batch, length = padding_BT.shape
    blocks, device = -(-length // block_size), padding_BT.device
    time_T = torch.arange(1, length + 1, device=device)
    last_B1 = time_T.masked_fill(padding_BT, 0).amax(dim=1, keepdim=True)
    real_B1 = last_B1.add(block_size - 1) // block_size
    block_N = torch.arange(blocks, device=device)
    near_NJ = block_N[:, None] + torch.arange(-window, window + 1, device=device)
    # What is global already does not count twice.
    near_seen_NJ = (near_NJ >= global_blocks) & (near_NJ < blocks)
    first_NJ = torch.arange(global_blocks, device=device).expand(blocks, -1)
    random_BNV, random_seen_BNV = _random_blocks(real_B1, block_N, draws_PV, window, global_blocks)
    fixed_NJ = torch.cat([first_NJ, near_NJ], dim=1)
    fixed_seen_NJ = torch.cat([torch.ones_like(first_NJ, dtype=torch.bool), near_seen_NJ], dim=1)
    index_BNJ = torch.cat([fixed_NJ.expand(batch, -1, -1), random_BNV], dim=2)
    seen_BNJ = torch.cat([fixed_seen_NJ.expand(batch, -1, -1), random_seen_BNV], dim=2)
    return index_BNJ.clamp(min=0, max=blocks - 1), seen_BNJ


def _random_blocks(
    real_B1: Tensor, block_N: Tensor, draws_PV: Tensor, window: int, global_blocks: int
) -> tuple[Tensor, Tensor]:
    """Distinct blocks (B, N, V) outside window and global blocks, and whether there were enough."""
    low_N = (block_N - window).clamp(min=global_blocks)
    high_BN = torch.minimum(block_N + window, real_B1 - 1)
    count_BN = (low_N - global_blocks + real_B1 - 1 - high_BN).clamp(min=0)
    draws_NV = draws_PV[block_N % draws_PV.shape[0]]
    picked: list[Tensor] = []
    for number in range(draws_PV.shape[1]):
        pick_BN = draws_NV[:, number] % (count_BN - number).clamp(min=1)
        # The pick counts candidates that are left: step over those taken, from the lowest on.
        taken = torch.stack(picked, dim=-1).sort(dim=-1).values.unbind(-1) if picked else ()
        for taken_BN in taken:
            pick_BN = pick_BN + (pick_BN >= taken_BN)
        picked.append(pick_BN)
    if not picked:
        empty_BNV = count_BN.new_empty((*count_BN.shape, 0))
        return empty_BNV, empty_BNV.bool()
    pick_BNV = torch.stack(picked, dim=-1)
    # Candidate number → block: step over the global blocks, and over the window where it comes.
    index_BNV = pick_BNV + global_blocks
    behind_BNV = index_BNV >= low_N[:, None]
    index_BNV = index_BNV + behind_BNV * (high_BN + 1 - low_N)[..., None]
    number_V = torch.arange(draws_PV.shape[1], device=draws_PV.device)
    return index_BNV, number_V < count_BN[..., None]
