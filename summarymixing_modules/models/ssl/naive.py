"""The naive forms of what pre-training computes fast: what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def naive_random_projection_codes(
    features_MF: Tensor, projection_QFK: Tensor, codebook_QVK: Tensor
) -> Tensor:
    """As ``random_projection_codes``, by the distances to all codes, in float64."""
    columns = []
    for projection_FK, codebook_VK in zip(
        projection_QFK.double(), codebook_QVK.double(), strict=True
    ):
        unit_MK = F.normalize(features_MF.double() @ projection_FK, dim=-1)
        distances_MV = (unit_MK[:, None] - codebook_VK[None]).norm(dim=-1)
        columns.append(distances_MV.argmin(dim=-1))
    return torch.stack(columns, dim=-1)


def naive_contrastive_logits(
    predicted_BND: Tensor,
    targets_BND: Tensor,
    codes_BN: Tensor,
    negatives_BNK: Tensor,
    temperature: float,
) -> Tensor:
    """Reference of `contrastive_logits`: every negative's vector is written out."""
    rows_B11 = torch.arange(len(codes_BN), device=codes_BN.device)[:, None, None]
    candidates_BNKD = torch.cat([targets_BND[:, :, None], targets_BND[rows_B11, negatives_BNK]], 2)
    logits_BNK = (
        F.cosine_similarity(predicted_BND[:, :, None], candidates_BNKD, dim=-1) / temperature
    )
    same_BNK = codes_BN[rows_B11, negatives_BNK] == codes_BN[..., None]
    same_BNK = F.pad(same_BNK, (1, 0))  # the target itself stays
    return logits_BNK.masked_fill(same_BNK, -torch.inf)


def naive_span_mask(
    length: int, spans: int, span: int, starts_T: Tensor, fill_T: Tensor
) -> list[bool]:
    """Reference of `span_masks` for one utterance, frame by frame."""
    hidden = [False] * len(starts_T)
    starts = sorted(range(length - span + 1), key=lambda t: float(starts_T[t]))
    for start in starts[:spans]:
        for frame in range(start, start + span):
            hidden[frame] = True
    for frame in sorted(range(length), key=lambda t: float(fill_T[t])):
        if sum(hidden) < spans * span:
            hidden[frame] = True
    return hidden
