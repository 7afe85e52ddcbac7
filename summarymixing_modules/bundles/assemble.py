"""From plain data and tensors to a model; shared by bundles and trained runs.

Shape suffixes: B batch, T frames, F features, L samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

import summarymixing_modules.models  # noqa: F401  (its classes make themselves describable)
from summarymixing_modules.bundles.features import assemble_features, load_statistics
from summarymixing_modules.bundles.limits import build_within, check_finite
from summarymixing_modules.bundles.manifest import BundleError
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.models.asr.fine_tuned import FineTunedModel  # noqa: F401  (likewise)
from summarymixing_modules.models.features.normalization import inner_share
from summarymixing_modules.models.features.valid_frontend import Waveform, real_frames
from summarymixing_modules.models.slu.classifier import ClassifierModel

MODEL_PREFIX = "model."
NORMALIZE_PREFIX = "normalize."


@dataclass(frozen=True)
class AcousticModel:
    """From audio to what the model makes of it.

    Attributes:
        model: in eval mode.
        features: samples (B, L) → filterbanks, or the samples themselves, (B, T, F).
        normalize: of features, with the statistics of the training.
    """

    model: nn.Module
    features: Any
    normalize: InputNormalization

    @property
    def hop_length(self) -> int:
        """Samples between two frames of the features."""
        waveform = isinstance(self.features, Waveform)
        return 1 if waveform else int(self.features.compute_STFT.hop_length)

    def acoustic_features(self, samples_BL: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features (B, T, F) and the real frames of each, as in evaluation.

        Args:
            samples_BL: padded audio at the sample rate of the model.
            lengths_B: real samples of each.
        """
        features_BTF = self.features(samples_BL)
        frames = features_BTF.shape[1]
        frames_B = real_frames(self.features, lengths_B, frames)
        return self.normalize(features_BTF, inner_share(frames_B, frames)), frames_B

    def to(self, device: torch.device | str) -> None:
        """Moves the modules to a device, in place."""
        for module in (self.model, self.features, self.normalize):
            module.to(device)


@dataclass(frozen=True)
class LoadedModel(AcousticModel):
    """A trained model, and what is known of it.

    Attributes:
        config: what ``config.json`` holds.
    """

    config: Mapping[str, Any]

    @property
    def sample_rate(self) -> int:
        """Of the audio that ``acoustic_features`` takes, Hz."""
        return int(self.config["sample_rate"])

    @property
    def window_seconds(self) -> float | None:
        """The longest utterance that the model was trained on; None if that is unknown."""
        seconds = self.config.get("window_seconds")
        return None if seconds is None else float(seconds)


@dataclass(frozen=True)
class LoadedBundle(LoadedModel):
    """A trained recogniser and everything between audio and text.

    Attributes:
        tokenizer: tokens to text.
    """

    tokenizer: Tokenizer


@dataclass(frozen=True)
class LoadedClassifier(LoadedModel):
    """A trained classifier of utterances.

    Attributes:
        labels: task → names of its classes, in the order of the model's outputs.
    """

    labels: Mapping[str, Sequence[str]]


def assemble(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer: Tokenizer
) -> LoadedBundle:
    """Builds a recogniser from its description and fills in the weights.

    Args:
        config: content of ``config.json``.
        tensors: "model.*" and "normalize.*".
        tokenizer: of the model.

    Raises:
        InputError: see ``assemble_acoustics``; a bad sample rate or the tokenizer of another model.
    """
    parts = _assemble_checked(config, tensors)
    outputs = config["model"]["arguments"].get("output_neurons")
    if outputs != tokenizer.vocab_size:
        raise BundleError(
            f"the model has output_neurons={outputs}, the tokenizer {tokenizer.vocab_size} tokens: "
            "they do not belong together."
        )
    return LoadedBundle(parts.model, parts.features, parts.normalize, config, tokenizer)


def assemble_classifier(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> LoadedClassifier:
    """Builds a classifier from its description and fills in the weights.

    Args:
        config: content of ``config.json``.
        tensors: "model.*" and "normalize.*".

    Raises:
        InputError: see ``assemble_acoustics``; a bad sample rate, or labels of another model.
    """
    parts = _assemble_checked(config, tensors)
    if not isinstance(parts.model, ClassifierModel):
        raise BundleError(
            f"the bundle says that it is a classifier, and holds a {type(parts.model).__name__}."
        )
    labels, arguments = config.get("labels"), config["model"]["arguments"]
    sizes = dict(zip(arguments["tasks"], arguments["classes"], strict=True))
    if not _are_labels(labels) or {task: len(names) for task, names in labels.items()} != sizes:
        raise BundleError(
            f"the bundle's labels are not names of the {sizes} classes that the model tells apart."
        )
    return LoadedClassifier(parts.model, parts.features, parts.normalize, config, labels)


def _assemble_checked(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AcousticModel:
    check_number(config, "sample_rate")
    if config.get("window_seconds") is not None:
        check_number(config, "window_seconds")
    return assemble_acoustics(config, tensors)


def _are_labels(labels: object) -> TypeGuard[dict[str, list[str]]]:
    """Whether a value maps texts to lists of texts."""
    return isinstance(labels, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in labels.values()
    )


def assemble_acoustics(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AcousticModel:
    """The model and its features.

    It is built once, on the CPU: on PyTorch's meta device building costs no memory, but the first
    drawn weight there imports PyTorch's compiler, which takes seconds.

    Args:
        config: with ``model``, ``features`` and ``normalize``.
        tensors: "model.*" and "normalize.*".

    Raises:
        InputError: unknown classes, bad settings, a model or features of a size that the weights
            are not for, or tensors that are missing, unexpected, of another shape or type, or hold
            NaN or infinity.
    """
    weights = _with_prefix(tensors, MODEL_PREFIX)
    model = build_within(config.get("model"), weights)
    check_tensors(model.state_dict(), weights)
    check_finite(tensors)
    model.load_state_dict(weights, strict=True)
    features, normalize = assemble_features(config)
    load_statistics(normalize, _with_prefix(tensors, NORMALIZE_PREFIX))
    foreign = [n for n in tensors if not n.startswith((MODEL_PREFIX, NORMALIZE_PREFIX))]
    if foreign:
        raise BundleError(f"the weights hold unexpected tensors: {_some(foreign)}.")
    return AcousticModel(model.eval(), features, normalize)


def check_number(config: Mapping[str, Any], key: str) -> None:
    """Raises BundleError if a key of a bundle's configuration holds no positive number."""
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise BundleError(f"the bundle's {key} is {value!r}: it must be a positive number.")


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def check_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compares names, shapes and types of a model's tensors with those to be loaded.

    Args:
        wanted: of the model.
        found: of the file.

    Raises:
        BundleError: some are missing, unexpected, or of another shape or type.
    """
    problems = {
        "lack": [name for name in wanted if name not in found],
        "hold unexpected": [name for name in found if name not in wanted],
        "have other shapes than the model for": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ],
        "have other types than the model for": [
            f"{name} {found[name].dtype} instead of {tensor.dtype}"
            for name, tensor in wanted.items()
            if name in found and found[name].dtype != tensor.dtype
        ],
    }
    told = [f"{what} {_some(names)}" for what, names in problems.items() if names]
    if told:
        raise BundleError(f"the weights do not fit the model: they {'; '.join(told)}.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
