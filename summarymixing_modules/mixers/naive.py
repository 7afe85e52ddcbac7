"""The naive forms of mixers, for tests and as the yardstick of the benchmark.

Each evaluates the parameters of a mixer exactly as its paper writes it; ``mixer.double()`` makes it
a float64 reference. Arguments are those of ``Mixer.forward``. RoPEMHA, RelPosMHAXL and regularMHA
have none: they are compared with SpeechBrain's own layers.

Shape suffixes: B batch, T frames, D model features, H heads, E features of a head (or inner
features), M mixing units, P cells, G summaries, S outputs of s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.mixers.bigbird import BigBird
from summarymixing_modules.mixers.fastformer import Fastformer
from summarymixing_modules.mixers.hypermixing import HyperMixing, HyperNetwork
from summarymixing_modules.mixers.layers import BlockLinear
from summarymixing_modules.mixers.linformer import Linformer
from summarymixing_modules.mixers.localattention import LocalAttention
from summarymixing_modules.mixers.mamba import Mamba, MambaDirection
from summarymixing_modules.mixers.performer import Performer
from summarymixing_modules.mixers.pom import PoM
from summarymixing_modules.mixers.summary_mixing import SummaryMixing
from summarymixing_modules.mixers.summary_statistics import (
    DecayedMean,
    MeanAndDeviation,
    WeightedMean,
)
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.naive import (
    naive_block_sparse_attend,
    naive_cell_means,
    naive_decayed_means,
    naive_favor_attend,
    naive_mean_and_deviation,
    naive_means,
    naive_selective_scan,
    naive_softmax_means,
    naive_window_attend,
    naive_window_means,
)
from summarymixing_modules.ops.positions import sine_positions
from summarymixing_modules.ops.rope import rotate
from summarymixing_modules.ops.summary import masked


def naive_summary_mixing(
    cell: SummaryMixing,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """Dense matrices with zeros between the heads, a T×T matrix for the means of chunks, the
    summary repeated over time, one matrix on the concatenation; dropout on it is drawn per frame.
    """
    width = cell.local_width
    each_BTS = _mlp(cell, x_BTD, slice(width, None), cell.summary_layers, cell.summary_activation)
    chunks = Chunks.of(chunk_size, left_context_size)
    summary_BTR = _statistic(cell, each_BTS, padding_BT, chunks)
    windows = [
        (naive_window_means(each_BTS, padding_BT, chunks, radius), norm)
        for radius, norm in zip(cell.windows.radii, cell.windows.norms, strict=True)
    ]
    local_BTF = _mlp(cell, x_BTD, slice(0, width), cell.local_layers, cell.local_activation)
    normed = ((local_BTF, cell.local_norm), *windows, (summary_BTR, cell.summary_norm))
    parts = [cell.dropout(norm(part)) for part, norm in normed if part.shape[-1]]
    combiner = cell.combiner_parts()
    if not combiner:
        return torch.stack(parts).sum(dim=0)
    weight = torch.cat([part.weight for part in combiner], dim=1)
    biases = [part.bias for part in combiner if part.bias is not None]
    y_BTD = F.linear(torch.cat(parts, dim=-1), weight, *biases)
    return cell.activation(y_BTD) if cell.combiner_activation else y_BTD


def _statistic(
    cell: SummaryMixing, s_BTS: Tensor, padding_BT: Tensor | None, chunks: Chunks | None
) -> Tensor:
    """What the cell keeps of s(x), for every frame."""
    seen = (padding_BT, chunks)
    if isinstance(cell.statistic, DecayedMean):
        return naive_decayed_means(s_BTS, *seen, cell.statistic.decay)
    if isinstance(cell.statistic, MeanAndDeviation):
        return naive_mean_and_deviation(s_BTS, *seen)
    if isinstance(cell.statistic, WeightedMean):
        vectors_SN = torch.block_diag(*cell.statistic.score[:, :, None])
        return naive_softmax_means(s_BTS, s_BTS @ vectors_SN, *seen)
    if chunks is None:
        return _utterance_means(s_BTS, padding_BT)
    return naive_means(s_BTS, *seen)


def _utterance_means(s_BTS: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Σ_t s_t / T, repeated over time."""
    if padding_BT is None:
        mean_B1S = s_BTS.mean(dim=1, keepdim=True)
    else:
        kept_BT1 = (~padding_BT)[..., None].to(s_BTS.dtype)
        count_B11 = kept_BT1.sum(dim=1, keepdim=True).clamp(min=1)
        mean_B1S = (s_BTS * kept_BT1).sum(dim=1, keepdim=True) / count_B11
    return mean_B1S.repeat(1, s_BTS.shape[1], 1)


def _mlp(
    cell: SummaryMixing, x_BTD: Tensor, columns: slice, layers: nn.ModuleList, last_activation: bool
) -> Tensor:
    """Linear + activation, layer after layer; ``columns`` are f's or s's share of the first."""
    x_BTD = _dense(cell.input_proj, x_BTD, columns)
    for layer in layers:
        x_BTD = _dense(layer, cell.activation(x_BTD), slice(None))
    return cell.activation(x_BTD) if last_activation else x_BTD


def _dense(layer: nn.Module, x_BTD: Tensor, columns: slice) -> Tensor:
    """A block-diagonal layer as one dense matrix."""
    assert isinstance(layer, BlockLinear)
    blocks = [block_IO[:, columns] for block_IO in layer.weight]
    weight_IO = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
    return F.linear(x_BTD, weight_IO.t(), layer.bias[..., columns].flatten())


def naive_hyper_mixing(
    mixer: HyperMixing,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """W1 and W2 of every frame are made, once for each chunk that sees the frame."""

    def window(x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
        return _mix_over_time(mixer, x_BTD, padding_BT)

    return _by_windows(window, x_BTD, padding_BT, Chunks.of(chunk_size, left_context_size))


def _by_windows(
    mix: Callable[[Tensor, Tensor | None], Tensor],
    x_BTD: Tensor,
    padding_BT: Tensor | None,
    chunks: Chunks | None,
) -> Tensor:
    """The definition of chunks: each is computed on the frames that it may see."""
    length = x_BTD.shape[1]
    chunks, parts = chunks or Chunks(length), []
    for start in range(0, length, chunks.size):
        first = 0 if chunks.left is None else max(0, start - chunks.left * chunks.size)
        seen = slice(first, start + chunks.size)
        y_BTD = mix(x_BTD[:, seen], None if padding_BT is None else padding_BT[:, seen])
        parts.append(y_BTD[:, start - first :])
    return torch.cat(parts, dim=1)


def _mix_over_time(mixer: HyperMixing, x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
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


def naive_fastformer(mixer: Fastformer, x_BTD: Tensor, padding_BT: Tensor | None = None) -> Tensor:
    """p is made, and pooled head by head."""
    query_BTD, key_BTD = mixer.query(x_BTD), mixer.key(x_BTD)
    query_B1D = _naive_pool(query_BTD, mixer.query_score, padding_BT)
    key_B1D = _naive_pool(key_BTD * query_B1D, mixer.key_score, padding_BT)
    return mixer.output(key_B1D * query_BTD) + query_BTD


def _naive_pool(x_BTD: Tensor, score: nn.Linear, padding_BT: Tensor | None) -> Tensor:
    heads_BTHE = x_BTD.unflatten(-1, (score.out_features, -1))
    scores_BTH = score(x_BTD) / math.sqrt(heads_BTHE.shape[-1])
    if padding_BT is not None:
        scores_BTH = scores_BTH.masked_fill(padding_BT[..., None], -torch.inf)
    weights_BTH = scores_BTH.softmax(dim=1)
    return (weights_BTH[..., None] * heads_BTHE).sum(dim=1, keepdim=True).flatten(2)


def naive_linformer(mixer: Linformer, x_BTD: Tensor, padding_BT: Tensor | None = None) -> Tensor:
    """Eq. 7 head by head, on the keys and values of all cells."""
    cells_BPD = naive_cell_means(x_BTD, padding_BT, mixer.key_landmarks.in_features)
    heads = []
    for query, key, value in zip(
        mixer.query_proj(x_BTD).chunk(mixer.nhead, dim=-1),
        mixer.key_proj(cells_BPD).chunk(mixer.nhead, dim=-1),
        mixer.value_proj(cells_BPD).chunk(mixer.nhead, dim=-1),
        strict=True,
    ):
        scores = query @ (mixer.key_landmarks.weight @ key).mT / math.sqrt(query.shape[-1])
        heads.append(scores.softmax(dim=-1) @ (mixer.value_landmarks.weight @ value))
    return mixer.out_proj(torch.cat(heads, dim=-1))


def naive_local_attention(
    mixer: LocalAttention,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """Dense matrices of scores."""
    query, key, value = mixer.projections(x_BTD)
    shared = None
    if mixer.global_tokens:
        hidden_BT = x_BTD.new_zeros(x_BTD.shape[:2]).bool() if padding_BT is None else padding_BT
        scores_BHGT = mixer.scale * mixer.global_query_HGE @ key.mT
        scores_BHGT = scores_BHGT.masked_fill(hidden_BT[:, None, None], -torch.inf)
        read_BHGE = scores_BHGT.softmax(dim=-1).nan_to_num(0.0) @ value
        both_BGD = mixer.global_proj(torch.cat(read_BHGE.unbind(1), dim=-1))
        key_BHGE, value_BHGE = torch.stack(both_BGD.chunk(mixer.nhead, -1), 1).chunk(2, -1)
        shared = mixer.scale * query @ key_BHGE.mT, value_BHGE
    y_BHTE = naive_window_attend(
        rotate(query),
        rotate(key),
        value,
        padding_BT,
        mixer.window,
        Chunks.of(chunk_size, left_context_size),
        mixer.scale,
        shared,
    )
    return mixer.projections.output(y_BHTE)


def naive_mamba(
    mixer: Mamba,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """Every utterance alone and cut to its real frames; zeros at padding."""

    def window(x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
        rows = []
        for row, x_TD in enumerate(x_BTD):
            length = len(x_TD) if padding_BT is None else int((~padding_BT[row]).sum())
            y_1TD = _both_ways(mixer, x_TD[None, :length]) if length else x_TD[None, :0]
            rows.append(F.pad(y_1TD[0], (0, 0, 0, len(x_TD) - length)))
        return torch.stack(rows)

    return _by_windows(window, x_BTD, padding_BT, Chunks.of(chunk_size, left_context_size))


def _both_ways(mixer: Mamba, x_1TD: Tensor) -> Tensor:
    y_1TD = _scan(mixer.left_to_right, x_1TD)
    if mixer.right_to_left is None:
        return y_1TD
    return y_1TD + _scan(mixer.right_to_left, x_1TD.flip(1)).flip(1)


def _scan(direction: MambaDirection, x_BTD: Tensor) -> Tensor:
    """The equations of the paper, without padding."""
    x_BTE, z_BTE = F.linear(x_BTD, direction.in_proj.weight).chunk(2, dim=-1)
    conv, taps = direction.conv1d, direction.conv1d.kernel_size[0]
    assert conv.bias is not None
    windows_BTEW = F.pad(x_BTE, (0, 0, taps - 1, 0)).unfold(1, taps, 1)
    x_BTE = (windows_BTEW * conv.weight[:, 0]).sum(dim=-1)
    x_BTE = F.silu(x_BTE + conv.bias)
    rank, n = direction.dt_rank, direction.d_state
    selected = x_BTE @ direction.x_proj.weight.T
    delta_BTE = F.softplus(direction.dt_proj(selected[..., :rank]))
    b_BTN, c_BTN = selected[..., rank : rank + n], selected[..., rank + n :]
    y_BTE, _ = naive_selective_scan(x_BTE, delta_BTE, -direction.A_log.exp(), b_BTN, c_BTN)
    return F.linear((y_BTE + direction.D * x_BTE) * F.silu(z_BTE), direction.out_proj.weight)


def naive_performer(
    mixer: Performer,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """The T×T matrix of estimated scores."""
    chunks = Chunks.of(chunk_size, left_context_size)
    query, key, value = mixer.projections(x_BTD)
    y_BHTE = naive_favor_attend(query, key, value, mixer.omega_ME, padding_BT, chunks)
    return mixer.projections.output(y_BHTE)


def naive_pom(
    mixer: PoM,
    x_BTD: Tensor,
    padding_BT: Tensor | None = None,
    chunk_size: int | None = None,
    left_context_size: int | None = None,
) -> Tensor:
    """Every g, p and H as tensors of k·E features for every frame; T×T means in chunks."""
    factors_BTKE = F.gelu(mixer.factors(x_BTD)).unflatten(-1, (mixer.degree, -1))
    p_BTP = factors_BTKE.cumprod(dim=2).flatten(2)
    chunks = Chunks.of(chunk_size, left_context_size)
    if chunks is None:
        mean_BTP = _utterance_means(p_BTP, padding_BT)
    else:
        mean_BTP = naive_means(p_BTP, padding_BT, chunks)
    return mixer.norm(mixer.output(mixer.gate(x_BTD).sigmoid() * mean_BTP))


def naive_bigbird(mixer: BigBird, x_BTD: Tensor, padding_BT: Tensor | None = None) -> Tensor:
    """One T×T mask, block after block in plain Python."""
    query, key, value = mixer.projections(x_BTD)
    y_BHTE = naive_block_sparse_attend(
        rotate(query),
        rotate(key),
        value,
        padding_BT,
        mixer.draws_PV,
        mixer.block_size,
        mixer.window_blocks,
        mixer.global_blocks,
        mixer.scale,
    )
    return mixer.projections.output(y_BHTE)


#: The naive form of every mixer that has one.
NAIVE: dict[type[nn.Module], Callable[..., Tensor]] = {
    BigBird: naive_bigbird,
    Fastformer: naive_fastformer,
    HyperMixing: naive_hyper_mixing,
    Linformer: naive_linformer,
    LocalAttention: naive_local_attention,
    Mamba: naive_mamba,
    Performer: naive_performer,
    PoM: naive_pom,
    SummaryMixing: naive_summary_mixing,
}
