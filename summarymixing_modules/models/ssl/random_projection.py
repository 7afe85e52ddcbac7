"""Targets of BEST-RQ (arXiv 2202.01855, §3.1): the nearest code of a frozen random projection.

Both are unit vectors over their features, so the nearest code is the one with the largest dot
product: a matrix product of M × V numbers, made in blocks, instead of M × V × K differences.
Everything is in float64: an index is then exact, whatever TF32 or autocast do to other products.

Shape suffixes: M frames, F features of a frame, K projected features, Q codebooks, V codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from summarymixing_modules.ops.precision import full_precision

# Frames compared at a time. With 8192 codes, 8 MiB, which a CPU's cache holds (three times as fast
# as 64 MiB), and 128 MiB on other devices.
ROWS_CPU, ROWS = 128, 2048


def random_projection_codes(
    features_MF: Tensor, projection_QFK: Tensor, codebook_QVK: Tensor
) -> Tensor:
    """Index of the nearest code of every frame in every codebook.

    Args:
        features_MF: frames.
        projection_QFK: one matrix per codebook.
        codebook_QVK: unit vectors.

    Returns:
        codes (M, Q), int64.
    """
    with full_precision(features_MF.device):
        projected_QMK = features_MF.double() @ projection_QFK.double()
        unit_QMK = normalize(projected_QMK, dim=-1)
        codes_QKV = codebook_QVK.double().mT
        rows = ROWS_CPU if features_MF.device.type == "cpu" else ROWS
        blocks = [(block @ codes_QKV).argmax(dim=-1) for block in unit_QMK.split(rows, dim=1)]
    return torch.cat(blocks, dim=1).mT
