"""SummaryMixing (arXiv 2307.07421; streaming and *fast*: arXiv 2409.07165).

For an utterance x_1 … x_T, padding excluded::

    s̄   = (1/T) Σ_t s(x_t)          summary
    h_t = c( f(x_t) , s̄ )           output

f and s are MLPs with an activation after every layer, split into heads as block-diagonal matrices;
c is one Linear on [f ; s̄] followed by the activation. Three rewritings make it fast and change
nothing but rounding:

* W·[f ; s̄] = W_f·f + W_s·s̄, so the summary half costs one row per utterance (or per chunk), and
  nothing is repeated over time or concatenated;
* the first layers of f and s read the same input and are one matrix product;
* activations are recomputed in the backward pass instead of kept (ops/activated_linear.py).

To ask which of f, s and c matter, each may end without its activation, f and s may have any depth
and width, and the mean may be another statistic (summary_statistics.py).

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D model features, F and S outputs
of f and s, R features of the summary (S, or 2·S with deviations), N heads, M = B·T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
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
    check_mode,
    check_parts,
    check_sizes,
    check_statistic,
    say_unused,
)
from summarymixing_modules.mixers.summary_statistics import (
    DecayedMean,
    Mean,
    MeanAndDeviation,
    SummaryState,
    SummaryStatistic,
    WeightedMean,
)
from summarymixing_modules.ops.activated_linear import activated_linear, activated_linears
from summarymixing_modules.ops.chunks import pad_to_chunks

DECAY = 0.995


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
        global_dropout: on [f ; s̄] before c. The part on s̄ is drawn once per utterance or chunk.
        mode: one of ``MODES``.
        use_layernorm: LayerNorm on f's output and on s̄ (full and expdecay).
        causal: frame t sees frames up to t only.
        decay: base of the weights of the expdecay mode.
        local_activation, summary_activation, combiner_activation: False leaves out the activation
            after the last layer of f, of s, or after c; hidden layers keep theirs. Without hidden
            layers, f or s is then linear.
        summary_statistic: "mean"; "weighted", with learned weights per head; or "mean_std", mean
            and standard deviation side by side, which c and the LayerNorm on s̄ take as one vector.

    Raises:
        InputError: unknown mode or statistic, one that the mode has no use for, a switch for a part
            that lite does not have, heads that do not divide a size, a lite output of another size.

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
        global_dropout: float = 0.1,
        mode: str = FULL,
        use_layernorm: bool = True,
        causal: bool = False,
        decay: float = DECAY,
        local_activation: bool = True,
        summary_activation: bool = True,
        combiner_activation: bool = True,
        summary_statistic: str = MEAN,
    ) -> None:
        super().__init__(enc_dim, causal)
        check_mode(mode, decay)
        check_statistic(mode, summary_statistic)
        check_parts(mode, local_activation, combiner_activation)
        self.mode, self.decay = mode, decay
        self.local_activation, self.summary_activation = local_activation, summary_activation
        self.combiner_activation = combiner_activation
        self.nhead = self._heads(nhead)
        summary_sizes = self._sizes("summary_hid_dim", summary_hid_dim, summary_out_dim)
        local_sizes: list[int] = []
        if mode == LITE:
            say_unused(LITE, "local_proj_hid_dim", local_proj_hid_dim)
            say_unused(LITE, "local_proj_out_dim", local_proj_out_dim)
            if summary_sizes[-1] != enc_dim:
                raise InputError(
                    f"in {LITE} the summary is the output: summary_out_dim={summary_sizes[-1]} "
                    f"must be enc_dim={enc_dim}."
                )
        else:
            local_sizes = self._sizes("local_proj_hid_dim", local_proj_hid_dim, local_proj_out_dim)
        self.activation = make_activation(activation)
        self.dropout = nn.Dropout(0.0 if mode == LITE else global_dropout)
        self.statistic = self._make_statistic(summary_statistic, summary_sizes[-1])
        self._make_projections(local_sizes, summary_sizes)
        normalise = use_layernorm and mode in (FULL, EXPDECAY)
        self.local_norm = nn.LayerNorm(local_sizes[-1]) if normalise else nn.Identity()
        self.summary_norm = nn.LayerNorm(self.statistic.out_dim) if normalise else nn.Identity()
        self.normalise = normalise

    def _heads(self, nhead: int) -> int:
        if self.mode == FAST and nhead != 1:
            say_unused(FAST, "nhead", nhead)
            return 1
        return nhead

    def _sizes(self, name: str, hidden: Sequence[int] | None, out: int | None) -> list[int]:
        """Layer sizes of f or s."""
        out = self.enc_dim if out is None else out
        if self.mode == FAST:
            say_unused(FAST, name, hidden)
            return [out]
        sizes = [*([self.enc_dim] if hidden is None else hidden), out]
        check_sizes(name, sizes, self.nhead)
        return sizes

    def _make_statistic(self, name: str, summary_dim: int) -> SummaryStatistic:
        if self.mode == EXPDECAY:
            return DecayedMean(summary_dim, self.decay)
        if name == WEIGHTED:
            return WeightedMean(summary_dim, self.nhead)
        return MeanAndDeviation(summary_dim) if name == MEAN_STD else Mean(summary_dim)

    def _make_projections(self, local_sizes: list[int], summary_sizes: list[int]) -> None:
        first = [sizes[0] for sizes in (local_sizes, summary_sizes) if sizes]
        self.first_widths = [size // self.nhead for size in first]
        self.input_proj = BlockLinear(self.enc_dim, sum(first), self.nhead)
        self.local_layers = self._layers(local_sizes)
        self.summary_layers = self._layers(summary_sizes)
        if not local_sizes:
            return
        self.combine_local = nn.Linear(local_sizes[-1], self.enc_dim)
        self.combine_summary = nn.Linear(self.statistic.out_dim, self.enc_dim, bias=False)
        # Together they are one Linear on [f ; s̄], and start as one.
        bound = 1 / math.sqrt(local_sizes[-1] + self.statistic.out_dim)
        for parameter in (*self.combine_local.parameters(), *self.combine_summary.parameters()):
            nn.init.uniform_(parameter, -bound, bound)

    def _layers(self, sizes: list[int]) -> nn.ModuleList:
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        return nn.ModuleList(BlockLinear(a, b, self.nhead) for a, b in pairs)

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
        local_MF, summary_BTS = self._project(x_BTD)
        summary_BCR = self.statistic(summary_BTS, padding_BT, chunk_size, left_context_size)
        return self._combine(local_MF, summary_BCR, x_BTD.shape[1])[:, :length]

    def _activate(self, x: Tensor, switch: bool) -> Tensor:
        return self.activation(x) if switch else x

    def _project(self, x_BTD: Tensor) -> tuple[Tensor | None, Tensor]:
        """f before its last activation, as (M, F) or None in lite, and s(x) as (B, T, S)."""
        local_NMI, summary_NMI = self._hidden(self.input_proj(split_heads(x_BTD, self.nhead)))
        for layer in self.summary_layers[1:]:
            summary_NMI = layer(summary_NMI, self.activation)
        summary_MS = self._activate(merge_heads(summary_NMI), self.summary_activation)
        summary_BTS = summary_MS.unflatten(0, x_BTD.shape[:2])
        if local_NMI is None:
            return None, summary_BTS
        for layer in self.local_layers[1:]:
            local_NMI = layer(local_NMI, self.activation)
        return merge_heads(local_NMI), summary_BTS

    def _hidden(self, first_NMI: Tensor) -> tuple[Tensor | None, Tensor]:
        """The second layers of f and s, where there are any, on the product of the first."""
        second = [
            cast(BlockLinear, layers[0])
            for layers in (self.local_layers, self.summary_layers)
            if layers
        ]
        if len(second) == len(self.first_widths):
            pairs = [(layer.weight, layer.bias) for layer in second]
            parts = list(activated_linears(first_NMI, pairs, self.activation))
        else:
            parts = list(first_NMI.split(self.first_widths, dim=-1))
            if self.summary_layers:
                parts[-1] = self.summary_layers[0](parts[-1], self.activation)
            elif self.local_layers:
                parts[0] = self.local_layers[0](parts[0], self.activation)
        return (parts[0] if len(parts) == 2 else None), parts[-1]

    def _combine(self, local_MF: Tensor | None, summary_BCR: Tensor, length: int) -> Tensor:
        """c(f, s̄) with one summary per chunk (or per frame), as (B, T, D)."""
        per_chunk = length // summary_BCR.shape[1]
        if local_MF is None:
            return summary_BCR[:, :, None].expand(-1, -1, per_chunk, -1).flatten(1, 2)
        shared_BCD = self.combine_summary(self.dropout(self.summary_norm(summary_BCR)))
        if self.normalise or (self.training and self.dropout.p > 0):
            local_MF = self.dropout(
                self.local_norm(self._activate(local_MF, self.local_activation))
            )
            own_MD = self.combine_local(local_MF)
        else:
            own_MD = self._combine_lean(local_MF)
        own_BCKD = own_MD.unflatten(0, (*summary_BCR.shape[:2], per_chunk))
        mixed_BCKD = own_BCKD + shared_BCD[:, :, None]
        return self._activate(mixed_BCKD, self.combiner_activation).flatten(1, 2)

    def _combine_lean(self, local_MF: Tensor) -> Tensor:
        """W_f·activation(f) + b without keeping activation(f)."""
        layer = self.combine_local
        if not self.local_activation:
            return layer(local_MF)
        weight_1FD, bias_11D = layer.weight.mT[None], layer.bias[None, None]
        return activated_linear(local_MF[None], weight_1FD, bias_11D, self.activation)[0]

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> SummaryState:
        """See ``Mixer.initial_state``. A few vectors, whatever the length of the stream."""
        weight = self.input_proj.weight
        return self.statistic.initial_state(
            batch_size,
            left_context_size,
            weight.device if device is None else device,
            weight.dtype if dtype is None else dtype,
        )

    def step(
        self, x_BTD: Tensor, state: SummaryState, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, SummaryState]:
        """See ``Mixer.step``."""
        self._check_input(x_BTD, key_padding_mask)
        local_MF, summary_BTS = self._project(x_BTD)
        summary_BCR, state = self.statistic.step(summary_BTS, key_padding_mask, state)
        return self._combine(local_MF, summary_BCR, x_BTD.shape[1]), state


@register_mixer(
    "SummaryMixing",
    SummaryMixing.capabilities,
    source="arXiv 2307.07421, 2409.07165",
    variants={
        **{mode: {"mode": mode} for mode in MODES},
        **{f"{FULL}-{kind}": {"summary_statistic": kind} for kind in (WEIGHTED, MEAN_STD)},
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
    use_layernorm: bool = True,
    global_dropout: float | None = None,
    decay: float = DECAY,
    local_activation: bool = True,
    summary_activation: bool = True,
    combiner_activation: bool = True,
    summary_statistic: str = MEAN,
) -> SummaryMixing:
    """Builds the cell for a host layer; heads, dropout and activation default to the host's."""
    return SummaryMixing(
        enc_dim=size.d_model,
        nhead=1 if mode == FAST else size.nhead,
        local_proj_hid_dim=local_proj_hid_dim,
        local_proj_out_dim=local_proj_out_dim,
        summary_hid_dim=summary_hid_dim,
        summary_out_dim=summary_out_dim,
        activation=size.activation,
        global_dropout=size.dropout if global_dropout is None else global_dropout,
        mode=mode,
        use_layernorm=use_layernorm,
        causal=size.causal,
        decay=decay,
        local_activation=local_activation,
        summary_activation=summary_activation,
        combiner_activation=combiner_activation,
        summary_statistic=summary_statistic,
    )
