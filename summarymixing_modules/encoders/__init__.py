"""Encoders whose layers host any registered mixer where self-attention was, and ContextNet."""

from summarymixing_modules.compat import check_environment

check_environment()  # before SpeechBrain is imported, which would end in a riddle

from summarymixing_modules.encoders.branchformer import (
    BranchformerEncoder,
    BranchformerEncoderLayer,
)
from summarymixing_modules.encoders.conformer import ConformerEncoder, ConformerEncoderLayer
from summarymixing_modules.encoders.contextnet import ContextNet, ContextNetEncoder
from summarymixing_modules.encoders.transformer import TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "BranchformerEncoder",
    "BranchformerEncoderLayer",
    "ConformerEncoder",
    "ConformerEncoderLayer",
    "ContextNet",
    "ContextNetEncoder",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]
