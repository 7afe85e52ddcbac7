"""The naive form of every fast operation: what tests compare with, by the formula as it stands.

Quadratic, or frame by frame in plain Python. Arguments and results are those of the fast form that
each names. The naive forms of whole mixers are in mixers/naive.py.

Shape suffixes: B batch, T frames, D and S features, H and N heads, E features of a head, G keys
that every frame sees, P cells or period, V random blocks, M random features, C chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops.chunks import Chunks, visible_TT
from summarymixing_modules.ops.pooling import MIN_VARIANCE, UNSEEN
from summarymixing_modules.ops.summary import masked
from summarymixing_modules.ops.window_attention import Shared


def naive_means(s_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
    """Reference of ``chunk_means`` with a dense T×T matrix; returns mean_BTD, one per frame."""
    weights_TT = visible_TT(s_BTD.shape[1], chunks, s_BTD.device)
    return naive_weighted_means(s_BTD, padding_BT, weights_TT.to(s_BTD.dtype))


def naive_weighted_means(s_BTD: Tensor, padding_BT: Tensor | None, weights_TT: Tensor) -> Tensor:
    """s̄_t = Σ_i M_ti s_i / Σ_i M_ti with M = ``weights_TT`` without padding, in O(T²)."""
    weights_BTT = weights_TT.expand(s_BTD.shape[0], -1, -1)
    if padding_BT is not None:
        weights_BTT = weights_BTT.masked_fill(padding_BT[:, None, :], 0.0)
    total_BT1 = weights_BTT.sum(dim=2, keepdim=True)
    mean_BTD = torch.einsum("bti,bid->btd", weights_BTT, s_BTD)
    return mean_BTD / torch.where(total_BT1 > 0, total_BT1, 1.0)


def naive_window_means(
    s_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None, radius: int
) -> Tensor:
    """Reference of ``window_means`` for one window, with a dense band."""
    length = s_BTD.shape[1]
    time_T = torch.arange(length, device=s_BTD.device)
    near_TT = (time_T[:, None] - time_T[None, :]).abs() <= radius
    seen_TT = near_TT & visible_TT(length, chunks, s_BTD.device)
    return naive_weighted_means(s_BTD, padding_BT, seen_TT.to(s_BTD.dtype))


def naive_decayed_means(
    s_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None, decay: float
) -> Tensor:
    """Reference of ``decayed_means`` with the dense matrix λ^|t−i|."""
    length = s_BTD.shape[1]
    time_T = torch.arange(length, device=s_BTD.device)
    powers_TT = decay ** (time_T[:, None] - time_T[None, :]).abs().to(s_BTD.dtype)
    seen_TT = visible_TT(length, chunks, s_BTD.device)
    return naive_weighted_means(s_BTD, padding_BT, powers_TT * seen_TT)


def naive_mean_and_deviation(
    s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks | None
) -> Tensor:
    """Reference of the moments: [mean ; deviation] of every frame by a dense T×T×S tensor."""
    mean_BTS = naive_means(s_BTS, padding_BT, chunks)
    seen_BTT = _seen_BTT(s_BTS, padding_BT, chunks).to(s_BTS.dtype)
    squares_BTTS = (s_BTS[:, None] - mean_BTS[:, :, None]).square()
    count_BT1 = seen_BTT.sum(dim=2)[..., None].clamp(min=1.0)
    variance_BTS = (seen_BTT[..., None] * squares_BTTS).sum(dim=2) / count_BT1
    return torch.cat([mean_BTS, variance_BTS.clamp(min=MIN_VARIANCE).sqrt()], dim=-1)


def naive_softmax_means(
    s_BTS: Tensor, scores_BTN: Tensor, padding_BT: Tensor | None, chunks: Chunks | None
) -> Tensor:
    """Reference of the softmax sums: one dense softmax over T×T scores per head."""
    seen_BTT1 = _seen_BTT(s_BTS, padding_BT, chunks)[..., None]
    scores_BTTN = scores_BTN[:, None].masked_fill(~seen_BTT1, UNSEEN)
    weights_BTTN = scores_BTTN.softmax(dim=2) * seen_BTT1
    heads_BTNI = s_BTS.unflatten(-1, (scores_BTN.shape[-1], -1))
    return torch.einsum("btun,buni->btni", weights_BTTN, heads_BTNI).flatten(2)


def _seen_BTT(s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
    """Entry (b, t, i) is True when frame t sees frame i, and i is real."""
    seen_TT = visible_TT(s_BTS.shape[1], chunks, s_BTS.device)
    seen_BTT = seen_TT.expand(s_BTS.shape[0], -1, -1)
    return seen_BTT if padding_BT is None else seen_BTT & ~padding_BT[:, None]


def naive_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    chunks: Chunks | None,
    scale: float,
) -> Tensor:
    """Reference of ``attend``: the whole matrix of scores, masked and normalised by hand."""
    seen_BTT = visible_TT(query_BHTE.shape[2], chunks, query_BHTE.device)[None]
    if padding_BT is not None:
        seen_BTT = seen_BTT & ~padding_BT[:, None, :]
    scores_BHTT = scale * query_BHTE @ key_BHTE.mT
    scores_BHTT = scores_BHTT.masked_fill(~seen_BTT[:, None], -torch.inf)
    weights_BHTT = scores_BHTT.softmax(dim=-1).nan_to_num(0.0)
    return weights_BHTT @ value_BHTE


def naive_window_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    window: int,
    chunks: Chunks | None,
    scale: float,
    shared: Shared | None = None,
) -> Tensor:
    """Reference of ``window_attend``: the whole matrix of scores, masked and normalised by hand.

    Unlike there, ``shared`` is scores (B, H, T, G) and values (B, H, G, E).
    """
    length = query_BHTE.shape[2]
    time_T = torch.arange(length, device=query_BHTE.device)
    near_TT = (time_T[:, None] - time_T[None, :]).abs() <= window
    seen_BTT = (near_TT & visible_TT(length, chunks, near_TT.device))[None]
    if padding_BT is not None:
        seen_BTT = seen_BTT & ~padding_BT[:, None, :]
    scores_BHTS = (scale * query_BHTE @ key_BHTE.mT).masked_fill(~seen_BTT[:, None], -torch.inf)
    if shared is not None:
        scores_BHTS = torch.cat([scores_BHTS, shared[0]], dim=-1)
        value_BHTE = torch.cat([value_BHTE, shared[1]], dim=2)
    return scores_BHTS.softmax(dim=-1).nan_to_num(0.0) @ value_BHTE


def naive_block_sparse_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    padding_BT: Tensor | None,
    draws_PV: Tensor,
    block_size: int,
    window_blocks: int,
    global_blocks: int,
    scale: float,
) -> Tensor:
    """Reference of ``block_sparse_attend``: block after block in plain Python, one T×T mask."""
    batch, _, length, _ = query_BHTE.shape
    seen_BTT = torch.zeros((batch, length, length), dtype=torch.bool)
    for row in range(batch):
        real_T = torch.ones(length, dtype=torch.bool)
        if padding_BT is not None:
            real_T = ~padding_BT[row].cpu()
        blocks = -(-int(real_T.sum()) // block_size)
        for block in range(blocks):
            queries = slice(block * block_size, (block + 1) * block_size)
            for other in naive_key_blocks(block, blocks, draws_PV, window_blocks, global_blocks):
                seen_BTT[row, queries, other * block_size : (other + 1) * block_size] = True
        seen_BTT[row] &= real_T
    scores_BHTT = scale * query_BHTE @ key_BHTE.mT
    scores_BHTT = scores_BHTT.masked_fill(~seen_BTT[:, None].to(scores_BHTT.device), -torch.inf)
    return scores_BHTT.softmax(dim=-1).nan_to_num(0.0) @ value_BHTE


def naive_key_blocks(
    block: int, blocks: int, draws_PV: Tensor, window_blocks: int, global_blocks: int
) -> list[int]:
    """The key blocks of one query block of an utterance of so many blocks."""
    if block < global_blocks:
        return list(range(blocks))
    near = range(max(0, block - window_blocks), min(blocks, block + window_blocks + 1))
    chosen = {*range(min(global_blocks, blocks)), *near}
    others = [other for other in range(blocks) if other not in chosen]
    for draw in draws_PV[block % len(draws_PV)].tolist():
        if others:
            chosen.add(others.pop(draw % len(others)))
    return sorted(chosen)


def naive_favor_attend(
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    omega_ME: Tensor,
    padding_BT: Tensor | None,
    chunks: Chunks | None,
) -> Tensor:
    """Reference of ``favor_attend``: the T×T matrix φ(q)ᵀφ(k), by the formula as it stands."""
    phi_query, phi_key = (
        torch.exp(x @ omega_ME.mT - x.square().sum(-1, keepdim=True) / 2)
        for x in (
            query_BHTE * query_BHTE.shape[-1] ** -0.25,
            key_BHTE * key_BHTE.shape[-1] ** -0.25,
        )
    )
    seen_BTT = visible_TT(query_BHTE.shape[2], chunks, omega_ME.device)[None]
    if padding_BT is not None:
        seen_BTT = seen_BTT & ~padding_BT[:, None, :]
    scores_BHTT = (phi_query @ phi_key.mT).masked_fill(~seen_BTT[:, None], 0.0)
    total_BHT1 = scores_BHTT.sum(dim=-1, keepdim=True)
    return scores_BHTT @ value_BHTE / torch.where(total_BHT1 > 0, total_BHT1, 1.0)


def naive_cell_means(x_BTD: Tensor, padding_BT: Tensor | None, cells: int) -> Tensor:
    """Reference: each real frame repeated P times, then cut into P equal parts; returns B, P, D."""
    means = []
    for row, x_TD in enumerate(x_BTD):
        real_ND = x_TD if padding_BT is None else x_TD[~padding_BT[row]]
        if real_ND.shape[0] == 0:
            means.append(x_TD.new_zeros(cells, x_TD.shape[1]))
            continue
        fine_XD = real_ND.repeat_interleave(cells, dim=0)
        means.append(fine_XD.unflatten(0, (cells, -1)).mean(dim=1))
    return torch.stack(means)


def naive_selective_scan(
    x_BTE: Tensor,
    delta_BTE: Tensor,
    a_EN: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    initial_BNE: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Reference of ``tiled_scan``: the recurrence, frame by frame; returns y_BTE and the state."""
    batch, length, features = x_BTE.shape
    state_BNE = initial_BNE
    if state_BNE is None:
        state_BNE = x_BTE.new_zeros(batch, a_EN.shape[1], features)
    outputs = []
    for t in range(length):
        decay_BNE = torch.exp(delta_BTE[:, t, None] * a_EN.T)
        input_BNE = (delta_BTE[:, t] * x_BTE[:, t])[:, None] * b_BTN[:, t, :, None]
        state_BNE = decay_BNE * state_BNE + input_BNE
        outputs.append((c_BTN[:, t, :, None] * state_BNE).sum(dim=1))
    return torch.stack(outputs, dim=1), state_BNE


def naive_window_states(
    first_BCNE: Tensor, later_BCNE: Tensor, fade_BCNE: Tensor, left_context_size: int
) -> Tensor:
    """Reference of ``window_states``: every window from its start."""
    states = []
    for chunk in range(first_BCNE.shape[1]):
        start = max(0, chunk - left_context_size)
        state_BNE = first_BCNE[:, start] if chunk else torch.zeros_like(first_BCNE[:, 0])
        for seen in range(start + 1, chunk):
            state_BNE = fade_BCNE[:, seen] * state_BNE + later_BCNE[:, seen]
        states.append(state_BNE)
    return torch.stack(states, dim=1)


def naive_depthwise_conv(
    x_BTD: Tensor,
    weight_D1W: Tensor,
    bias_D: Tensor | None,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    causal: bool = False,
) -> Tensor:
    """Reference of ``depthwise_conv``: one output frame at a time, with every tap checked."""
    x_BTD = masked(x_BTD, padding_BT)
    length, width = x_BTD.shape[1], weight_D1W.shape[-1]
    centre = width - 1 if causal else (width - 1) // 2
    frames_BD = []
    for t in range(length):
        last = length if chunk_size is None else (t // chunk_size + 1) * chunk_size
        total_BD = torch.zeros_like(x_BTD[:, 0])
        for tap in range(width):
            i = t + tap - centre
            if 0 <= i < min(last, length):
                total_BD = total_BD + x_BTD[:, i] * weight_D1W[:, 0, tap]
        frames_BD.append(total_BD if bias_D is None else total_BD + bias_D)
    return torch.stack(frames_BD, dim=1)


def naive_batch_norm(
    x_BTD: Tensor,
    padding_BT: Tensor | None,
    weight_D: Tensor,
    bias_D: Tensor,
    running_mean_D: Tensor,
    running_variance_D: Tensor,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Reference of ``batch_norm`` on one process: torch's, of the real frames picked out."""
    real_BT = torch.ones_like(x_BTD[..., 0], dtype=torch.bool)
    if padding_BT is not None:
        real_BT = ~padding_BT
    running = running_mean_D, running_variance_D
    y_ND = F.batch_norm(x_BTD[real_BT], *running, weight_D, bias_D, True, momentum, eps)
    return torch.zeros_like(x_BTD).masked_scatter(real_BT[..., None], y_ND)
