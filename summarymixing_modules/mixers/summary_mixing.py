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
every frame gets c(s̄), without s each gets c(f(x_t)), without c the sum f(x_t) + s̄. Windows add
means of s(x) around each frame to what c is given (summary_windows.py).

Shape suffixes: B batch, T frames, C chunks, K frames of a chunk, D model features, F and S outputs
of f and s, R features of the summary (S, or 2·S with deviations), V those of the windows (S for
each), N heads, M = B·T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.layers import (
    BlockLinear,
    block_layers,
    make_activation,
    merge_heads,
    split_heads,
)
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.mixers.summary_options import (
    EXPDECAY,
    FAST,
    FORMS,
    FULL,
    LITE,
    MEAN,
    check_absent,
    check_mode,
    check_statistic,
    check_sum,
    has_layernorm,
    heads_of,
    layer_sizes,
    parts_of,
    window_widths,
)
from summarymixing_modules.mixers.summary_statistics import make_statistic
from summarymixing_modules.mixers.summary_windows import SummaryMemory, WindowMeans
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
        summary_window: frames of a window, or of several, whose means of s(x) around every frame go
            into c beside s̄ (summary_windows.py); full and fast modes.

    Raises:
        InputError: unknown mode or statistic; a statistic, a window, a decay, a dropout or a switch
            that the mode has no use for; heads that do not divide a size; neither f nor s; without
            c (and in lite) an output of f or s that is not as wide as the input.

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
        summary_window: int | Sequence[int] | None = None,
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
        widths = window_widths(mode, parts, summary_window)
        self.capabilities = replace(type(self).capabilities, bidirectional="s" in parts)
        self.mode, self.decay = mode, DECAY if decay is None else decay
        self.local_activation, self.summary_activation = local_activation, summary_activation
        self.combiner_activation = combiner_activation and "c" in parts
        self.nhead = heads_of(mode, nhead)
        sizes = partial(layer_sizes, enc_dim=enc_dim, mode=mode, nhead=self.nhead)
        local = sizes("local_proj", local_proj_hid_dim, local_proj_out_dim, "f" in parts)
        summary = sizes("summary", summary_hid_dim, summary_out_dim, "s" in parts)
        self.activation = make_activation(activation)
        if global_dropout is None:
            global_dropout = GLOBAL_DROPOUT if "c" in parts else 0.0
        self.dropout = nn.Dropout(global_dropout)
        fade = self.decay if mode == EXPDECAY else None
        self.statistic = make_statistic(summary_statistic, fade, summary[-1], self.nhead)
        if "c" not in parts:
            check_sum(enc_dim, local[-1], self.statistic.out_dim)
        normalise = has_layernorm(mode, use_layernorm)
        self.windows = WindowMeans(summary[-1], widths, normalise)
        self._make_projections(local, summary, "c" in parts)
        self.local_norm = _norm(local[-1], normalise)
        self.summary_norm = _norm(self.statistic.out_dim, normalise)

    def _make_projections(
        self, local_sizes: list[int], summary_sizes: list[int], combiner: bool
    ) -> None:
        self.local_width = local_sizes[0] // self.nhead
        self.input_proj = BlockLinear(self.enc_dim, local_sizes[0] + summary_sizes[0], self.nhead)
        self.local_layers = block_layers(local_sizes, self.nhead)
        self.summary_layers = block_layers(summary_sizes, self.nhead)
        self.combine_local: nn.Module = nn.Identity()
        self.combine_windows: nn.Module = nn.Identity()
        self.combine_summary: nn.Module = nn.Identity()
        if not combiner:
            return
        local, windows, summary = local_sizes[-1], self.windows.out_dim, self.statistic.out_dim
        if local:
            self.combine_local = nn.Linear(local, self.enc_dim)
        if windows:
            self.combine_windows = nn.Linear(windows, self.enc_dim, bias=False)
        if summary:
            self.combine_summary = nn.Linear(summary, self.enc_dim, bias=not local)
        # Together they are one Linear on [f ; s̄^w ; s̄], and start as one.
        bound = 1 / math.sqrt(local + windows + summary)
        for part in self.combiner_parts():
            for parameter in part.parameters():
                nn.init.uniform_(parameter, -bound, bound)

    def combiner_parts(self) -> list[nn.Linear]:
        """c in parts, on f, on the windows and on s̄, as far as the cell has them."""
        parts = (self.combine_local, self.combine_windows, self.combine_summary)
        return [part for part in parts if isinstance(part, nn.Linear)]

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``. Full context is one chunk that spans the utterance."""
        length = x_BTD.shape[1]
        chunks = Chunks.spanning(chunks, length)
        x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunks.size)
        local_MF, summary_BTS = self._project(x_BTD)
        windows_BTV = self.windows(summary_BTS, padding_BT, chunks)
        summary_BCR = self.statistic(summary_BTS, padding_BT, chunks)
        return self._combine(local_MF, windows_BTV, summary_BCR)[:, :length]

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

    def _combine(self, local_MF: Tensor, windows_BTV: Tensor, summary_BCR: Tensor) -> Tensor:
        """c(f, s̄^w, s̄) with one s̄ per chunk (or per frame), as (B, T, D)."""
        batch, length = windows_BTV.shape[:2]
        shape_BCK = (batch, summary_BCR.shape[1], length // summary_BCR.shape[1])
        terms: list[Tensor] = []
        if local_MF.shape[-1]:
            own_MD = self.combine_local(self.dropout(self.local_norm(local_MF)))
            terms.append(own_MD.unflatten(0, shape_BCK))
        if windows_BTV.shape[-1]:
            near_BTD = self.combine_windows(self.dropout(windows_BTV))
            terms.append(near_BTD.unflatten(1, shape_BCK[1:]))
        if summary_BCR.shape[-1]:
            shared_BCD = self.combine_summary(self.dropout(self.summary_norm(summary_BCR)))
            terms.append(shared_BCD[:, :, None])
        mixed_BCKD = self._activate(sum(terms[1:], terms[0]), self.combiner_activation)
        return mixed_BCKD.expand(*shape_BCK, -1).flatten(1, 2)

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> SummaryMemory:
        """A few vectors, whatever the length of the stream."""
        return SummaryMemory(
            self.statistic.initial_state(x_B0D, left), self.windows.initial_state(x_B0D)
        )

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: SummaryMemory
    ) -> tuple[Tensor, SummaryMemory]:
        local_MF, summary_BTS = self._project(x_BTD)
        windows_BTV, recent = self.windows.step(summary_BTS, padding_BT, chunks, memory.recent_BRX)
        summary_BCR, past = self.statistic.step(
            summary_BTS, padding_BT, chunks.left, memory.past_BLX
        )
        return self._combine(local_MF, windows_BTV, summary_BCR), SummaryMemory(past, recent)


def _norm(size: int, present: bool) -> nn.Module:
    return nn.LayerNorm(size) if size and present else nn.Identity()


@register_mixer(
    "SummaryMixing",
    SummaryMixing.capabilities,
    source="arXiv 2307.07421, 2409.07165, 2602.09043",
    forms=FORMS,
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
    summary_window: int | Sequence[int] | None = None,
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
        summary_window=summary_window,
    )
