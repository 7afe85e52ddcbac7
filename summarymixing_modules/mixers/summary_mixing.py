"""SummaryMixing (arXiv 2307.07421; streaming and *fast*: arXiv 2409.07165).

For an utterance x_1 … x_T, padding excluded::

    s̄   = (1/T) Σ_t s(x_t)          summary
    h_t = c( f(x_t) , s̄ )           output

f and s are MLPs with an activation after every layer, split into heads as block-diagonal matrices;
c is one Linear on [f ; s̄] followed by the activation. Two rewritings make it fast and change
nothing but rounding:

* W·[f ; s̄] = W_f·f + W_s·s̄, so the summary half costs one row per utterance (or per chunk), and
  nothing is repeated over time or concatenated;
* the first layers of f and s read the same input and are one matrix product.

To ask which of f, s and c matter, each may be left out or end without its activation, f and s may
have any depth and width, and the mean may be another statistic (summary_statistics.py). Without f
every frame gets c(s̄), without s each gets c(f(x_t)), without c the sum f(x_t) + s̄.

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D model features, F and S outputs
of f and s, R features of the summary (S, or 2·S with deviations), N heads, M = B·T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.layers import (
    BlockLinear,
    make_activation,
    merge_heads,
    split_heads,
)
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.mixers.summary_options import (
    EXPDECAY,
    FAST,
    FULL,
    LITE,
    MEAN,
    MEAN_STD,
    MODES,
    WEIGHTED,
    check_absent,
    check_mode,
    check_sizes,
    check_statistic,
    check_sum,
    parts_of,
    say_unused,
)
from summarymixing_modules.mixers.summary_statistics import (
    DecayedMean,
    Mean,
    MeanAndDeviation,
    SummaryStatistic,
    WeightedMean,
)
from summarymixing_modules.ops.chunks import Chunks, pad_to_chunks

DECAY, GLOBAL_DROPOUT = 0.995, 0.1


class SummaryMixing(Mixer):
    """The SummaryMixing cell in its four modes.

    * ``SummaryMixing``: f, s and c as above.
    * ``SummaryMixing-lite``: every frame gets s̄; no f, no c, no LayerNorm.
    * ``SummaryMixing-fast``: f and s are single layers without heads; no LayerNorm.
    * ``SummaryMixing-expdecay``: as the full mode, with weights ``decay``^|t−i| in the mean.

    Args:
        enc_dim: input and output features D.
        nhead: heads of f and s. 1 is faster, 4 slightly better (authors' README).
        local_proj_hid_dim: hidden sizes of f; None = [enc_dim], or none in the fast mode.
        local_proj_out_dim: output size of f; None = enc_dim.
        summary_hid_dim: hidden sizes of s; None = [enc_dim], or none in the fast mode.
        summary_out_dim: output size of s; None = enc_dim.
        activation: class or instance, after every layer of f and s and after c.
        global_dropout: on [f ; s̄] before c; None = 0.1. The part on s̄ is drawn once per utterance
            or chunk.
        mode: one of ``MODES``.
        use_layernorm: LayerNorm on f's output and on s̄; None = in the modes that have it, full and
            expdecay.
        causal: frame t sees frames up to t only.
        decay: base of the weights of the expdecay mode; None = 0.995.
        local_proj, summary_proj, combiner: False leaves out f, s or c, as described above; without
            c, the outputs of f and s are as wide as the input.
        local_activation, summary_activation, combiner_activation: False leaves out the activation
            after the last layer of f, of s, or after c; hidden layers keep theirs. Without hidden
            layers, f or s is then linear.
        summary_statistic: "mean"; "weighted", with learned weights per head; or "mean_std", mean
            and standard deviation side by side, which c and the LayerNorm on s̄ take as one vector.

    Raises:
        InputError: unknown mode or statistic; a statistic, a decay, a dropout or a switch that the
            mode has no use for; heads that do not divide a size; neither f nor s; without c (and in
            lite) an output of f or s that is not as wide as the input.

    Example:
        >>> cell = SummaryMixing(enc_dim=512, nhead=4)
        >>> cell(torch.rand(8, 60, 512)).shape
        torch.Size([8, 60, 512])
    """

    capabilities = Capabilities(linear_time=True)

    def __init__(
        self,
        enc_dim: int,
        nhead: int = 1,
        local_proj_hid_dim: Sequence[int] | None = None,
        local_proj_out_dim: int | None = None,
        summary_hid_dim: Sequence[int] | None = None,
        summary_out_dim: int | None = None,
        activation: Callable[[], nn.Module] | nn.Module = nn.GELU,
        global_dropout: float | None = None,
        mode: str = FULL,
        use_layernorm: bool | None = None,
        causal: bool = False,
        decay: float | None = None,
        local_proj: bool = True,
        summary_proj: bool = True,
        combiner: bool = True,
        local_activation: bool = True,
        summary_activation: bool = True,
        combiner_activation: bool = True,
        summary_statistic: str = MEAN,
    ) -> None:
        super().__init__(enc_dim, causal)
        check_mode(mode, decay)
        check_statistic(mode, summary_statistic)
        parts = parts_of(mode, local_proj, summary_proj, combiner)
        check_absent(
            mode,
            parts,
            local_activation=local_activation,
            summary_activation=summary_activation,
            summary_statistic=summary_statistic,
            combiner_activation=combiner_activation,
            global_dropout=global_dropout or None,
        )
        self.capabilities = replace(type(self).capabilities, bidirectional="s" in parts)
        self.mode, self.decay = mode, DECAY if decay is None else decay
        self.local_activation, self.summary_activation = local_activation, summary_activation
        self.combiner_activation = combiner_activation and "c" in parts
        self.nhead = self._heads(nhead)
        local = self._sizes("local_proj", local_proj_hid_dim, local_proj_out_dim, "f" in parts)
        summary = self._sizes("summary", summary_hid_dim, summary_out_dim, "s" in parts)
        self.activation = make_activation(activation)
        if global_dropout is None:
            global_dropout = GLOBAL_DROPOUT if "c" in parts else 0.0
        self.dropout = nn.Dropout(global_dropout)
        self.statistic = self._make_statistic(summary_statistic, summary[-1])
        if "c" not in parts:
            check_sum(enc_dim, local[-1], self.statistic.out_dim)
        self._make_projections(local, summary, "c" in parts)
        normalise = use_layernorm is not False and mode in (FULL, EXPDECAY)
        if use_layernorm and not normalise:
            say_unused(mode, "use_layernorm", True)
        self.local_norm = _norm(local[-1], normalise)
        self.summary_norm = _norm(self.statistic.out_dim, normalise)

    def _heads(self, nhead: int) -> int:
        if self.mode == FAST and nhead != 1:
            say_unused(FAST, "nhead", nhead)
            return 1
        return nhead

    def _sizes(
        self, name: str, hidden: Sequence[int] | None, out: int | None, present: bool
    ) -> list[int]:
        """Layer sizes of f or s; no features where the cell has none."""
        if not present:
            say_unused(f"a cell without {name}", f"{name}_hid_dim", hidden)
            say_unused(f"a cell without {name}", f"{name}_out_dim", out)
            return [0]
        out = self.enc_dim if out is None else out
        if self.mode == FAST:
            say_unused(FAST, f"{name}_hid_dim", hidden)
            return [out]
        sizes = [*([self.enc_dim] if hidden is None else hidden), out]
        check_sizes(f"{name}_hid_dim", sizes, self.nhead)
        return sizes

    def _make_statistic(self, name: str, summary_dim: int) -> SummaryStatistic:
        if self.mode == EXPDECAY:
            return DecayedMean(summary_dim, self.decay)
        if name == WEIGHTED:
            return WeightedMean(summary_dim, self.nhead)
        return MeanAndDeviation(summary_dim) if name == MEAN_STD else Mean(summary_dim)

    def _make_projections(
        self, local_sizes: list[int], summary_sizes: list[int], combiner: bool
    ) -> None:
        self.local_width = local_sizes[0] // self.nhead
        self.input_proj = BlockLinear(self.enc_dim, local_sizes[0] + summary_sizes[0], self.nhead)
        self.local_layers = self._layers(local_sizes)
        self.summary_layers = self._layers(summary_sizes)
        self.combine_local: nn.Module = nn.Identity()
        self.combine_summary: nn.Module = nn.Identity()
        if not combiner:
            return
        local, summary = local_sizes[-1], self.statistic.out_dim
        if local:
            self.combine_local = nn.Linear(local, self.enc_dim)
        if summary:
            self.combine_summary = nn.Linear(summary, self.enc_dim, bias=not local)
        # Together they are one Linear on [f ; s̄], and start as one.
        bound = 1 / math.sqrt(local + summary)
        for parameter in (*self.combine_local.parameters(), *self.combine_summary.parameters()):
            nn.init.uniform_(parameter, -bound, bound)

    def _layers(self, sizes: list[int]) -> nn.ModuleList:
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        return nn.ModuleList(BlockLinear(a, b, self.nhead) for a, b in pairs)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``. Full context is one chunk that spans the utterance."""
        length = x_BTD.shape[1]
        chunks = Chunks.spanning(chunks, length)
        x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunks.size)
        local_MF, summary_BTS = self._project(x_BTD)
        summary_BCR = self.statistic(summary_BTS, padding_BT, chunks)
        return self._combine(local_MF, summary_BCR, x_BTD.shape[1])[:, :length]

    def _activate(self, x: Tensor, switch: bool) -> Tensor:
        return self.activation(x) if switch else x

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """f as (M, F) and s(x) as (B, T, S); without features where there is no f or no s."""
        first_NMI = self.input_proj(split_heads(x_BTD, self.nhead))
        local_NMI, summary_NMI = first_NMI.tensor_split([self.local_width], dim=-1)
        summary_MS = self._mlp(summary_NMI, self.summary_layers, self.summary_activation)
        local_MF = self._mlp(local_NMI, self.local_layers, self.local_activation)
        return local_MF, summary_MS.unflatten(0, x_BTD.shape[:2])

    def _mlp(self, x_NMI: Tensor, layers: nn.ModuleList, last_activation: bool) -> Tensor:
        """f or s after its first product; the heads are merged."""
        for layer in layers:
            x_NMI = layer(self.activation(x_NMI))
        return self._activate(merge_heads(x_NMI), last_activation)

    def _combine(self, local_MF: Tensor, summary_BCR: Tensor, length: int) -> Tensor:
        """c(f, s̄) with one summary per chunk (or per frame), as (B, T, D)."""
        shape_BCK = (*summary_BCR.shape[:2], length // summary_BCR.shape[1])
        halves: list[Tensor] = []
        if local_MF.shape[-1]:
            own_MD = self.combine_local(self.dropout(self.local_norm(local_MF)))
            halves.append(own_MD.unflatten(0, shape_BCK))
        if summary_BCR.shape[-1]:
            shared_BCD = self.combine_summary(self.dropout(self.summary_norm(summary_BCR)))
            halves.append(shared_BCD[:, :, None])
        mixed_BCKD = self._activate(sum(halves[1:], halves[0]), self.combiner_activation)
        return mixed_BCKD.expand(*shape_BCK, -1).flatten(1, 2)

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> Tensor:
        """A few vectors, whatever the length of the stream."""
        return self.statistic.initial_state(x_B0D, left)

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        local_MF, summary_BTS = self._project(x_BTD)
        summary_BCR, memory = self.statistic.step(summary_BTS, padding_BT, chunks.left, memory)
        return self._combine(local_MF, summary_BCR, x_BTD.shape[1]), memory


def _norm(size: int, present: bool) -> nn.Module:
    return nn.LayerNorm(size) if size and present else nn.Identity()


@register_mixer(
    "SummaryMixing",
    SummaryMixing.capabilities,
    source="arXiv 2307.07421, 2409.07165",
    forms={
        **{mode: {"mode": mode} for mode in MODES},
        **{f"{FULL}-{kind}": {"summary_statistic": kind} for kind in (WEIGHTED, MEAN_STD)},
        f"{FULL}-no-f": {"local_proj": False},
        f"{FULL}-no-s": {"summary_proj": False},
        f"{FULL}-no-c": {"combiner": False},
    },
)
def build_summary_mixing(
    size: MixerSize,
    *,
    mode: str = FULL,
    local_proj_hid_dim: Sequence[int] | None = None,
    local_proj_out_dim: int | None = None,
    summary_hid_dim: Sequence[int] | None = None,
    summary_out_dim: int | None = None,
    use_layernorm: bool | None = None,
    global_dropout: float | None = None,
    decay: float | None = None,
    local_proj: bool = True,
    summary_proj: bool = True,
    combiner: bool = True,
    local_activation: bool = True,
    summary_activation: bool = True,
    combiner_activation: bool = True,
    summary_statistic: str = MEAN,
) -> SummaryMixing:
    """Builds the cell for a host layer; heads, dropout and activation default to the host's."""
    if global_dropout is None and combiner and mode != LITE:
        global_dropout = size.dropout
    return SummaryMixing(
        enc_dim=size.d_model,
        nhead=1 if mode == FAST else size.nhead,
        local_proj_hid_dim=local_proj_hid_dim,
        local_proj_out_dim=local_proj_out_dim,
        summary_hid_dim=summary_hid_dim,
        summary_out_dim=summary_out_dim,
        activation=size.activation,
        global_dropout=global_dropout,
        mode=mode,
        use_layernorm=use_layernorm,
        causal=size.causal,
        decay=decay,
        local_proj=local_proj,
        summary_proj=summary_proj,
        combiner=combiner,
        local_activation=local_activation,
        summary_activation=summary_activation,
        combiner_activation=combiner_activation,
        summary_statistic=summary_statistic,
    )
