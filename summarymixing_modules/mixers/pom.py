"""PoM, polynomial mixing (arXiv 2411.12663; for speech arXiv 2603.00683).

With k Linears W_m and the gate's W_s from d to E = D·d features, all with biases::

    g_m = GELU(W_m x)                               m = 1 … k
    p_1 = g_1,  p_m = p_{m−1} ∘ g_m                 monomials of degree m
    H   = (1/T) Σ_t [p_1(x_t) | … | p_k(x_t)]       padding excluded
    y_t = LayerNorm( W_o [σ(W_s x_t) ∘ H] )         W_s: d → k·E, W_o: k·E → d

A frame sees H of the frames that its chunk may see, as in SummaryMixing, so chunks, causality and
streams are those of a mean. There are no heads and no dropout; the LayerNorm is the speech paper's.

Shape suffixes: B batch, T frames, C chunks, D model features, E features of a degree, P = k·E.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.mixers.summary_statistics import Mean
from summarymixing_modules.ops.chunks import Chunks, pad_to_chunks
from summarymixing_modules.ops.polynomial import gated_output, monomial_means, monomials


class PoM(Mixer):
    """Polynomial mixing in O(T).

    Args:
        enc_dim: features d.
        degree: k.
        expansion: D, features of a degree for every feature of a frame.
        use_layernorm: after W_o.
        causal: frame t sees frames up to t only.

    Raises:
        InputError: a degree or an expansion below 1.

    Example:
        >>> PoM(512)(torch.rand(8, 60, 512)).shape
        torch.Size([8, 60, 512])
    """

    capabilities = Capabilities(linear_time=True)

    def __init__(
        self,
        enc_dim: int,
        degree: int = 3,
        expansion: int = 2,
        use_layernorm: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__(enc_dim, causal)
        for option, value in (("degree", degree), ("expansion", expansion)):
            if value < 1:
                raise InputError(f"{option}={value} of pom must be at least 1.")
        self.degree = degree
        features = degree * expansion * enc_dim
        self.factors = nn.Linear(enc_dim, features)
        self.gate = nn.Linear(enc_dim, features)
        self.statistic = Mean(features)
        self.output = nn.Linear(features, enc_dim)
        self.norm = nn.LayerNorm(enc_dim) if use_layernorm else nn.Identity()

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``. Full context is one chunk that spans the utterance."""
        length = x_BTD.shape[1]
        chunks = Chunks.spanning(chunks, length)
        x_BTD, padding_BT = pad_to_chunks(x_BTD, padding_BT, chunks.size)
        mean_BCP = monomial_means(self.factors(x_BTD), self.degree, padding_BT, chunks)
        return self._read(x_BTD, mean_BCP)[:, :length]

    def _read(self, x_BTD: Tensor, mean_BCP: Tensor) -> Tensor:
        weights = self.output.weight, self.output.bias
        return self.norm(gated_output(self.gate(x_BTD), mean_BCP, *weights))

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> Tensor:
        """[Σ p ; number of frames] of the chunks within reach, or of all the past."""
        return self.statistic.initial_state(x_B0D, left)

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        p_BTP = torch.cat(list(monomials(self.factors(x_BTD), self.degree, padding_BT)), dim=-1)
        mean_B1P, memory = self.statistic.step(p_BTP, padding_BT, chunks.left, memory)
        return self._read(x_BTD, mean_B1P), memory


@register_mixer(
    "pom",
    PoM.capabilities,
    source="arXiv 2411.12663, 2603.00683",
    forms={"pom": {}, "pom-quadratic": {"degree": 2}},
)
def build_pom(
    size: MixerSize, *, degree: int = 3, expansion: int = 2, use_layernorm: bool = True
) -> PoM:
    """Builds polynomial mixing for a host layer."""
    return PoM(size.d_model, degree, expansion, use_layernorm, size.causal)
