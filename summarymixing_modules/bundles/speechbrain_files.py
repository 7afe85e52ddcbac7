"""Extra files of a bundle, so that SpeechBrain's inference classes load it too.

They are for SpeechBrain only, which executes its YAML files; `load_bundle` never reads them.
SpeechBrain's Pretrainer finds files by the names of what they are for, "encoder.ckpt" and
"tokenizer.ckpt", wherever the folder lies: they are copies of the bundle's, no pickles.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX

YAML_FILE, STREAMING_FILE = "hyperparams.yaml", "streaming.yaml"
ENCODER_FILE, TOKENIZER_FILE = "encoder.ckpt", "tokenizer.ckpt"
CTC_CLASSES = ("CTCModel", "FineTunedModel")

_COMMON = """\
# For SpeechBrain, which runs this file as code:
#   from speechbrain.inference.ASR import {interface}
#   {interface}.from_hparams({arguments})
# The package summarymixing_modules must be installed; it does not read this file itself.

sample_rate: {rate}

encoder: !new:summarymixing_modules.bundles.speechbrain_modules.BundleEncoder
{encoder}
tokenizer: !new:summarymixing_modules.bundles.speechbrain_modules.BundleTokenizer
    kind: {kind}

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
        tokenizer: !ref <tokenizer>

"""
_CTC = f"""\
modules:
    encoder: !ref <encoder>

decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
    blank_id: {BLANK_INDEX}
"""
_DECODER = """\
modules:
    encoder: !ref <encoder>
    decoder: !new:summarymixing_modules.bundles.speechbrain_modules.BundleDecoder
        encoder: !ref <encoder>
"""
_BEAM = """\
        beam_size: 10
        ctc_weight: 0.4
"""
_STREAMING = """\
stream: !new:summarymixing_modules.bundles.speechbrain_modules.BundleStream
    encoder: !ref <encoder>
    tokenizer: !ref <tokenizer>

modules:
    enc: !ref <stream>
    proj_enc: !new:torch.nn.Identity

fea_streaming_extractor: !ref <stream.extractor>
make_decoder_streaming_context: !name:summarymixing_modules.bundles.speechbrain_modules.no_context
decoding_function: !name:summarymixing_modules.bundles.speechbrain_modules.pass_on
make_tokenizer_streaming_context: !name:summarymixing_modules.bundles.speechbrain_modules.no_context
tokenizer_decode_streaming: !name:summarymixing_modules.bundles.speechbrain_modules.text_of
"""


def speechbrain_files(config: Mapping[str, Any], table: bytes, weights: bytes) -> dict[str, bytes]:
    """The files, by name: ``hyperparams.yaml`` for ``EncoderASR`` (CTC models) or
    ``EncoderDecoderASR`` (others), and, of a model that was trained with chunks,
    ``streaming.yaml`` for ``StreamingASR``.

    Args:
        config: content of config.json.
        table: content of the tokenizer's file.
        weights: content of model.safetensors.
    """
    source = 'source="<this folder>"'
    files = {ENCODER_FILE: weights, TOKENIZER_FILE: table}
    kind = config["model"]["class"]
    if kind in CTC_CLASSES:
        files[YAML_FILE] = _yaml(config, "EncoderASR", source, _CTC)
    else:
        decoder = _DECODER + (_BEAM if kind == "AttentionCTCModel" else "")
        files[YAML_FILE] = _yaml(config, "EncoderDecoderASR", source, decoder)
    if config["streaming"]:
        source += f', hparams_file="{STREAMING_FILE}"'
        files[STREAMING_FILE] = _yaml(config, "StreamingASR", source, _STREAMING)
    return files


def _yaml(config: Mapping[str, Any], interface: str, arguments: str, rest: str) -> bytes:
    encoder = io.StringIO()
    YAML().dump({key: config[key] for key in ("model", "features", "normalize")}, encoder)
    common = _COMMON.format(
        interface=interface,
        arguments=arguments,
        rate=config["sample_rate"],
        encoder=textwrap.indent(encoder.getvalue(), "    "),
        kind=config["tokenizer"],
    )
    return (common + rest).encode()
