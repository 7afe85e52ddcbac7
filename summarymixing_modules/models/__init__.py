"""Models put together from encoders: front ends, TransformerASR, decoder, CTC acoustic model."""

from summarymixing_modules.compat import check_environment

check_environment()  # before SpeechBrain is imported, which would end in a riddle

from summarymixing_modules.models.attention_ctc import AttentionCTCModel
from summarymixing_modules.models.ctc import CTCModel
from summarymixing_modules.models.distillation import LayerwiseDistillation
from summarymixing_modules.models.frontend import ConvFrontEnd1d, ConvFrontEnd2d
from summarymixing_modules.models.summary_decoder import MixerDecoder, MixerDecoderLayer
from summarymixing_modules.models.swap import SwapReport, swap_mixer
from summarymixing_modules.models.transducer import TransducerModel
from summarymixing_modules.models.transformer_asr import TransformerASR
from summarymixing_modules.models.widths import matched_transformer

__all__ = [
    "AttentionCTCModel",
    "CTCModel",
    "ConvFrontEnd1d",
    "ConvFrontEnd2d",
    "LayerwiseDistillation",
    "MixerDecoder",
    "MixerDecoderLayer",
    "SwapReport",
    "TransducerModel",
    "TransformerASR",
    "matched_transformer",
    "swap_mixer",
]
