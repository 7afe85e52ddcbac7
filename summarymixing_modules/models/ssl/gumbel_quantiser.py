"""The quantiser of wav2vec 2.0: product quantisation with Gumbel softmax (arXiv 2006.11477, §2).

Shape suffixes: M frames, F features, G codebooks, V codes of each, D features of a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax, one_hot

from summarymixing_modules.errors import InputError


@dataclass(frozen=True)
class Quantised:
    """What frames become.

    Attributes:
        vectors_MD: the chosen codes' vectors, side by side.
        codes_MG: which they are.
        perplexity_G: e^H of the mean over the frames of the distributions over codes: from 1, one
            code is all there is, to V, all are as likely.
    """

    vectors_MD: Tensor
    codes_MG: Tensor
    perplexity_G: Tensor


class GumbelQuantiser(nn.Module):
    """Chooses one code of each codebook, by lot in training; gradients are those of the softmax.

    In evaluation the likeliest code is chosen. SpeechBrain's ``GumbelVectorQuantizer`` has the same
    equations. This one looks codes up with a matrix product, where that writes out V · D numbers
    for every frame (82,000 at the paper's size), gives the codes and the perplexity of each
    codebook, and its vectors are those of the codebook with no rounding.

    Args:
        input_size: features F of a frame.
        codes: V.
        codebooks: G.
        size: D.
        temperature: (first, last, factor of each optimizer step).

    Attributes:
        temperature: of the Gumbel softmax now; see `set_step`.

    Raises:
        InputError: ``size`` does not divide among the codebooks, or a bad temperature.
    """

    def __init__(
        self,
        input_size: int,
        codes: int = 320,
        codebooks: int = 2,
        size: int = 256,
        temperature: tuple[float, float, float] = (2.0, 0.25, 0.999995),
    ) -> None:
        super().__init__()
        if size % codebooks:
            raise InputError(f"code_dim={size} must be a multiple of codebooks={codebooks}.")
        first, last, factor = temperature
        if not (first >= last > 0 and 0 < factor <= 1):
            raise InputError(
                f"the temperature goes from {first} down to {last} by a factor of {factor}: give "
                "temperature >= temperature_min > 0 and 0 < temperature_decay <= 1."
            )
        self.schedule = (first, last, factor)
        self.temperature = first
        self.codes, self.codebooks = codes, codebooks
        self.scores = nn.Linear(input_size, codebooks * codes)
        self.codebook = nn.Parameter(torch.empty(codebooks, codes, size // codebooks))
        nn.init.normal_(self.scores.weight)  # as published: peaked, so that all codes are in use
        nn.init.zeros_(self.scores.bias)
        nn.init.uniform_(self.codebook)

    def set_step(self, step: int) -> None:
        """Gives the temperature that belongs to a number of optimizer steps."""
        first, last, factor = self.schedule
        self.temperature = max(first * factor**step, last)

    def forward(self, frames_MF: Tensor) -> Quantised:
        """Quantises frames; padding must not be among them."""
        logits_MGV = self.scores(frames_MF).unflatten(-1, (self.codebooks, -1)).float()
        probability_GV = logits_MGV.softmax(-1).sum(0) / max(len(logits_MGV), 1)
        if self.training:
            soft_MGV = gumbel_softmax(logits_MGV, tau=self.temperature)
            codes_MG = soft_MGV.argmax(-1)
            # The bracket is zero: values are those of one code, gradients those of the softmax.
            weights_MGV = one_hot(codes_MG, self.codes) + (soft_MGV - soft_MGV.detach())
        else:
            codes_MG = logits_MGV.argmax(-1)
            weights_MGV = one_hot(codes_MG, self.codes).to(logits_MGV.dtype)
        vectors_MGD = torch.einsum("MGV,GVD->MGD", weights_MGV, self.codebook)
        entropy_G = torch.special.entr(probability_GV).sum(-1)
        return Quantised(vectors_MGD.flatten(1), codes_MG, entropy_G.exp())
