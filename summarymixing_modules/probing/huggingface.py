"""Speech encoders of Hugging Face's transformers (wav2vec 2.0, HuBERT, WavLM, data2vec), from disk.

Shape suffixes: B batch, T frames, L samples.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import HiddenStates
from summarymixing_modules.models.features.frontend import lengths_to_padding

MODEL_TYPES = ("data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
#: Nothing is fetched, and no code that lies in the folder is run.
_SAFELY = {"local_files_only": True, "trust_remote_code": False}
#: As transformers' feature extractors have it.
_EPSILON = 1e-7


class HuggingFaceEncoder(nn.Module):
    """Audio to the hidden states of all layers.

    Models whose first convolution has a group norm over time (``feat_extract_norm: group``, such as
    wav2vec 2.0 base) count padding in it: they get one utterance at a time.

    Args:
        folder: local, with ``config.json`` and weights, as ``save_pretrained`` leaves it.

    Raises:
        InputError: transformers is not installed, or no encoder of speech in the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        transformers = _transformers(folder)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **_SAFELY)
            self._check(config, folder)
            self.model = transformers.AutoModel.from_pretrained(folder, **_SAFELY)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: cannot be loaded by transformers ({error}).") from error
        self._extractor = _extractor(transformers, folder)
        self.sample_rate = int(self._extractor.get("sampling_rate", 16000))
        self.normalises = bool(self._extractor.get("do_normalize", True))
        self.one_by_one = getattr(config, "feat_extract_norm", "group") == "group"
        # SpecAugment and layer drop belong to its training.
        self.model.config.apply_spec_augment, self.model.config.layerdrop = False, 0.0

    @staticmethod
    def _check(config: Any, folder: str | os.PathLike[str]) -> None:
        if config.model_type not in MODEL_TYPES:
            raise InputError(
                f"{folder}: a model of type {config.model_type!r} is no encoder of speech that can "
                f"be probed: use one of {', '.join(MODEL_TYPES)}."
            )

    def forward(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes padded audio.

        Args:
            samples_BL: at ``sample_rate``.
            lengths_B: real samples of each.
        """
        if self.one_by_one and len(samples_BL) > 1:
            rows = [
                self._encode(row_L[None, :length], lengths_B.new_tensor([length]))
                for row_L, length in zip(samples_BL, lengths_B.tolist(), strict=True)
            ]
            return _padded(rows)
        return self._encode(samples_BL, lengths_B)

    def frames(self, samples_N: Tensor) -> Tensor:
        """Frames of the hidden states for numbers of samples."""
        return self.model._get_feat_extract_output_lengths(samples_N).long()

    def save(self, folder: Path) -> None:
        """Writes a folder from which the same encoder can be read."""
        self.model.save_pretrained(folder)
        if self._extractor:
            content = json.dumps(self._extractor, indent=2) + "\n"
            write_atomically(folder / "preprocessor_config.json", content)

    def _encode(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        padding_BL = lengths_to_padding(lengths_B, samples_BL.shape[1])
        if self.normalises:
            samples_BL = _normalised(samples_BL, padding_BL)
        output = self.model(
            samples_BL, attention_mask=(~padding_BL).long(), output_hidden_states=True
        )
        states = tuple(output.hidden_states)
        return HiddenStates(states, output.last_hidden_state, self.frames(lengths_B))


def _normalised(samples_BL: Tensor, padding_BL: Tensor) -> Tensor:
    """Zero mean and unit variance over the real samples, as the feature extractor does."""
    real_BL = (~padding_BL).to(samples_BL.dtype)
    count_B1 = real_BL.sum(dim=1, keepdim=True)
    mean_B1 = (samples_BL * real_BL).sum(dim=1, keepdim=True) / count_B1
    centred_BL = (samples_BL - mean_B1) * real_BL
    variance_B1 = centred_BL.square().sum(dim=1, keepdim=True) / count_B1
    return centred_BL / (variance_B1 + _EPSILON).sqrt()


def _padded(rows: list[HiddenStates]) -> HiddenStates:
    """Utterances encoded one by one, in one batch."""

    def pad(tensors: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence([tensor[0] for tensor in tensors], batch_first=True)

    layers = zip(*(row.states for row in rows), strict=True)
    return HiddenStates(
        tuple(pad(list(states)) for states in layers),
        pad([row.output_BTD for row in rows]),
        torch.cat([row.lengths_B for row in rows]),
    )


def _transformers(folder: str | os.PathLike[str]) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{folder} holds a model of Hugging Face, for which the package transformers is "
            "needed: python -m pip install transformers"
        ) from error
    return transformers


def _extractor(transformers: Any, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of the model's feature extractor; empty if it came without."""
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **_SAFELY)
    except (OSError, ValueError):
        return {}
    return dict(extractor.to_dict())
