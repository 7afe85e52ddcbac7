"""Models put together from encoders: front ends, TransformerASR."""

from summarymixing_modules.models.frontend import ConvFrontEnd1d, ConvFrontEnd2d
from summarymixing_modules.models.transformer_asr import TransformerASR

__all__ = ["ConvFrontEnd1d", "ConvFrontEnd2d", "TransformerASR"]
