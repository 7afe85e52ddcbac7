"""Models put together from encoders: front ends, TransformerASR, decoder, CTC acoustic model."""

from summarymixing_modules.compat import check_environment

check_environment()  # before SpeechBrain is imported, which would end in a riddle

from summarymixing_modules.models.asr.attention_ctc import AttentionCTCModel
from summarymixing_modules.models.asr.ctc import CTCModel
from summarymixing_modules.models.asr.summary_decoder import MixerDecoder, MixerDecoderLayer
from summarymixing_modules.models.asr.transducer import TransducerModel
from summarymixing_modules.models.conversion.distillation import LayerwiseDistillation
from summarymixing_modules.models.conversion.swap import SwapReport, swap_mixer
from summarymixing_modules.models.features.frontend import ConvFrontEnd1d, ConvFrontEnd2d
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
