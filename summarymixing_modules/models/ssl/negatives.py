"""Contrasts of wav2vec 2.0: a frame's target against other hidden frames of the same utterance.

Shape suffixes: B batch, N hidden frames of an utterance, K negatives, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from summarymixing_modules.ops.chunks import accumulation_dtype
from summarymixing_modules.ops.precision import full_precision


def draw_negatives(
    counts_B: Tensor, length: int, negatives: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draws negatives uniformly among the other hidden frames of an utterance (arXiv 2006.11477,
    §3.2), with replacement.

    SpeechBrain's ``sample_negatives`` steps from one utterance to the next by T - 1 frames instead
    of T, so that negatives of later utterances come from the ones before.

    Args:
        counts_B: hidden frames of each utterance.
        length: N of the padded batch.
        negatives: K.
        generator: of random numbers, on the device of ``counts_B``; None = PyTorch's.

    Returns:
        (B, N, K), indices in 0 … ``counts_B`` - 1, never a frame's own. Frames past the count, and
        those of an utterance with a single hidden frame, which has no other, get 0.
    """
    shape = (len(counts_B), length, negatives)
    others_B11 = (counts_B - 1).clamp(min=0)[:, None, None]
    draws_BNK = torch.rand(shape, generator=generator, device=counts_B.device)
    index_BNK = (draws_BNK * others_B11).long()
    own_1N1 = torch.arange(length, device=counts_B.device)[None, :, None]
    index_BNK = index_BNK + (index_BNK >= own_1N1)
    return index_BNK.masked_fill((own_1N1 > others_B11) | (others_B11 == 0), 0)


def take(values_BN: Tensor, index_BNK: Tensor) -> Tensor:
    """Values (B, N, K) of frames at indices within their utterance."""
    return values_BN[:, None].expand(-1, index_BNK.shape[1], -1).gather(2, index_BNK)


def contrastive_logits(
    predicted_BND: Tensor,
    targets_BND: Tensor,
    codes_BN: Tensor,
    negatives_BNK: Tensor,
    temperature: float,
) -> Tensor:
    """Cosine similarities over a temperature, of the target first (arXiv 2006.11477, eq. 3).

    All frames of an utterance are compared with all its targets in one product, and the negatives
    are picked from it: N numbers a frame rather than K · D. (At K = 100, D = 256 that is less up
    to N = 25,600, over ten minutes of speech.) In float32 at least, whatever the precision of the
    rest.

    A negative with the target's own code is the target: its logit is -inf, as in the paper's
    published training. Codes are compared, not vectors, which rounding could tell apart.

    Args:
        predicted_BND: what the encoder makes of hidden frames.
        targets_BND: projected vectors of the codes that they had.
        codes_BN: one number for each combination of codes.
        negatives_BNK: see `draw_negatives`.
        temperature: κ.

    Returns:
        (B, N, 1 + K), the target's logit at index 0.
    """
    dtype = accumulation_dtype(predicted_BND.dtype)
    with full_precision(predicted_BND.device):
        predicted_BND = normalize(predicted_BND.to(dtype), dim=-1)
        targets_BND = normalize(targets_BND.to(dtype), dim=-1)
        logits_BNN = predicted_BND @ targets_BND.transpose(1, 2) / temperature
    same_BNK = take(codes_BN, negatives_BNK) == codes_BN[..., None]
    others_BNK = logits_BNN.gather(2, negatives_BNK).masked_fill(same_BNK, -torch.inf)
    return torch.cat([logits_BNN.diagonal(dim1=1, dim2=2)[..., None], others_BNK], dim=2)


def distinct_candidates(codes_BN: Tensor, negatives_BNK: Tensor) -> Tensor:
    """How many different codes a frame (B, N) chooses among, its own included.

    A guess is right once in so many cases: equal codes have equal logits.
    """
    negative_BNK = take(codes_BN, negatives_BNK)
    candidates_BNK = torch.cat([codes_BN[..., None], negative_BNK], dim=2).sort(dim=2).values
    return 1 + (candidates_BNK.diff(dim=2) != 0).sum(2)
