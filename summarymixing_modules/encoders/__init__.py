"""Encoders whose layers host any registered mixer where self-attention was."""

from summarymixing_modules.encoders.branchformer import (
    BranchformerEncoder,
    BranchformerEncoderLayer,
)
from summarymixing_modules.encoders.conformer import ConformerEncoder, ConformerEncoderLayer

__all__ = [
    "BranchformerEncoder",
    "BranchformerEncoderLayer",
    "ConformerEncoder",
    "ConformerEncoderLayer",
]
