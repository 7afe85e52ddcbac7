"""Extra files of a bundle, so that SpeechBrain's ``EncoderASR`` loads it too.

They are for SpeechBrain only, which executes its hyperparams.yaml; `load_bundle` never reads them.
SpeechBrain's Pretrainer finds files by the names of what they are for, "encoder.ckpt" and
"tokenizer.ckpt", wherever the folder lies: the first is a copy of model.safetensors, no pickle.

Shape suffixes: B batch, T frames, L samples, V vocabulary.
"""

from __future__ import annotations

import io
import os
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from speechbrain.dataio.encoder import CTCTextEncoder
from speechbrain.utils.checkpoints import mark_as_transfer, register_checkpoint_hooks
from torch import Tensor

from summarymixing_modules.bundles.assemble import AcousticModel, assemble_acoustics
from summarymixing_modules.bundles.load import read_tensors
from summarymixing_modules.data.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.tokenizers import BLANK_INDEX, Tokenizer
from summarymixing_modules.errors import InputError

YAML_FILE, ENCODER_FILE, TOKENIZER_FILE = "hyperparams.yaml", "encoder.ckpt", "tokenizer.ckpt"

_YAML = """\
# For SpeechBrain, which runs this file as code:
#   from speechbrain.inference.ASR import EncoderASR
#   EncoderASR.from_hparams(source="<this folder>").transcribe_file("speech.wav")
# The package summarymixing_modules must be installed; it does not read this file itself.

sample_rate: {rate}

encoder: !new:summarymixing_modules.bundles.speechbrain_files.BundleEncoder
{encoder}
tokenizer: !new:{tokenizer}

modules:
    encoder: !ref <encoder>

decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
    blank_id: {blank}

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
        tokenizer: !ref <tokenizer>
"""


@register_checkpoint_hooks
class BundleEncoder(torch.nn.Module):
    """Audio to log-probabilities, as SpeechBrain's ``EncoderASR`` calls it.

    Args:
        model: description, see ``models.describe``.
        features: settings of the filterbanks.
        normalize: settings of their normalisation.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        features: Mapping[str, Any],
        normalize: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.config = {"model": model, "features": features, "normalize": normalize}
        self.acoustics: AcousticModel | None = None

    @mark_as_transfer
    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Builds the model and fills in the weights of a bundle; SpeechBrain's Pretrainer calls it.

        Raises:
            InputError: not the weights of this model.
        """
        tensors = read_tensors(Path(path), Path(path).read_bytes())
        self.acoustics = assemble_acoustics(self.config, tensors)
        self.model = self.acoustics.model  # registered here, so that it moves with this module

    def forward(self, samples_BL: Tensor, share_B: Tensor) -> Tensor:
        """Log-probabilities (B, T, V).

        Args:
            samples_BL: padded audio.
            share_B: share of real samples.

        Raises:
            InputError: the weights have not been loaded.
        """
        if self.acoustics is None:
            raise InputError("no weights: SpeechBrain's Pretrainer has to load them.")
        lengths_B = (share_B * samples_BL.shape[1]).round().long()
        self.acoustics.to(samples_BL.device)
        features_BTF, frames_B = self.acoustics.acoustic_features(samples_BL, lengths_B)
        return self.model(features_BTF, frames_B)[0]


def speechbrain_files(
    config: Mapping[str, Any], tokenizer: Tokenizer, weights: bytes
) -> dict[str, bytes]:
    """The files, by name.

    Args:
        config: content of config.json.
        tokenizer: of the model.
        weights: content of model.safetensors.

    Raises:
        InputError: a model that ``EncoderASR`` cannot decode.
    """
    if config["model"]["class"] != "CTCModel":
        raise InputError(
            f"--speechbrain: EncoderASR decodes CTC models, not a {config['model']['class']}. "
            "Export without it."
        )
    if isinstance(tokenizer, SentencePieceTokenizer):
        kind, table = "sentencepiece.SentencePieceProcessor", tokenizer.model_path.read_bytes()
    else:
        kind, table = "speechbrain.dataio.encoder.CTCTextEncoder", _labels(tokenizer)
    encoder = {key: config[key] for key in ("model", "features", "normalize")}
    text = _YAML.format(
        rate=config["sample_rate"], encoder=_indented(encoder), tokenizer=kind, blank=BLANK_INDEX
    )
    return {YAML_FILE: text.encode(), ENCODER_FILE: weights, TOKENIZER_FILE: table}


def _indented(values: Mapping[str, Any]) -> str:
    """YAML of a mapping, to be put below a key."""
    stream = io.StringIO()
    YAML().dump(dict(values), stream)
    return textwrap.indent(stream.getvalue(), "    ")


def _labels(tokenizer: Tokenizer) -> bytes:
    """The table of a character tokenizer in the format of SpeechBrain's text encoders."""
    encoder = CTCTextEncoder()
    encoder.insert_blank(index=BLANK_INDEX)
    for character in tokenizer.pieces()[BLANK_INDEX + 1 :]:
        encoder.add_label(character)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(Path(folder) / "labels")
        return (Path(folder) / "labels").read_bytes()
