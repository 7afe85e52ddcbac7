"""From plain data and tensors to a model; shared by bundles and trained runs.

Shape suffixes: B batch, T frames, F features, L samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

import summarymixing_modules.models  # noqa: F401  (its classes make themselves describable)
from summarymixing_modules.bundles.manifest import BundleError
from summarymixing_modules.data.tokenizers import Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.describe import build
from summarymixing_modules.models.fine_tuned import FineTunedModel  # noqa: F401  (likewise)
from summarymixing_modules.models.normalization import FixedNormalization, inner_share
from summarymixing_modules.models.valid_frontend import Waveform, real_frames
from summarymixing_modules.streaming.features import LocalFbank

MODEL_PREFIX = "model."
NORMALIZE_PREFIX = "normalize."
#: Classes of features that a bundle can name.
FEATURES: dict[str, type[nn.Module]] = {
    "Fbank": Fbank,
    "LocalFbank": LocalFbank,
    "Waveform": Waveform,
}
#: Arguments of SpeechBrain's InputNormalization that decide what it does after training.
NORMALIZE_SETTINGS = ("std_norm", "norm_type", "length_dim", "avoid_padding_norm", "epsilon")
STATISTICS = ("glob_mean", "glob_std", "count")


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
class LoadedBundle(AcousticModel):
    """A trained model and everything between audio and text.

    Attributes:
        tokenizer: tokens to text.
        config: what ``config.json`` holds.
    """

    tokenizer: Tokenizer
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


def assemble(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer: Tokenizer
) -> LoadedBundle:
    """Builds a model from its description and fills in the weights.

    Args:
        config: content of ``config.json``.
        tensors: "model.*" and "normalize.*".
        tokenizer: of the model.

    Raises:
        InputError: see ``assemble_acoustics``; a bad sample rate or the tokenizer of another model.
    """
    check_number(config, "sample_rate")
    if config.get("window_seconds") is not None:
        check_number(config, "window_seconds")
    parts = assemble_acoustics(config, tensors)
    outputs = config["model"]["arguments"].get("output_neurons")
    if outputs != tokenizer.vocab_size:
        raise BundleError(
            f"the model has output_neurons={outputs}, the tokenizer {tokenizer.vocab_size} tokens: "
            "they do not belong together."
        )
    return LoadedBundle(parts.model, parts.features, parts.normalize, tokenizer, config)


def assemble_acoustics(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AcousticModel:
    """The model and its features. Shapes are compared before memory is taken for the model.

    Args:
        config: with ``model``, ``features`` and ``normalize``.
        tensors: "model.*" and "normalize.*".

    Raises:
        InputError: unknown classes, bad settings, or tensors that are missing, unexpected or of
            another shape or type.
    """
    weights = _with_prefix(tensors, MODEL_PREFIX)
    with torch.device("meta"):
        check_tensors(build(config.get("model")).state_dict(), weights)
    model = build(config["model"])
    model.load_state_dict(weights, strict=True)
    features, normalize = assemble_features(config)
    load_statistics(normalize, _with_prefix(tensors, NORMALIZE_PREFIX))
    foreign = [n for n in tensors if not n.startswith((MODEL_PREFIX, NORMALIZE_PREFIX))]
    if foreign:
        raise BundleError(f"the weights hold unexpected tensors: {_some(foreign)}.")
    return AcousticModel(model.eval(), features, normalize)


def assemble_features(config: Mapping[str, Any]) -> tuple[nn.Module, FixedNormalization]:
    """Features and their normalisation, which has no statistics yet.

    Args:
        config: with ``features`` and ``normalize``.

    Raises:
        InputError: unknown classes or bad settings.
    """
    features = _make_features(config.get("features"))
    normalize = _from_settings(FixedNormalization, config.get("normalize"), "normalize")
    return features.eval(), normalize


def check_number(config: Mapping[str, Any], key: str) -> None:
    """Raises BundleError if a key of a bundle's configuration holds no positive number."""
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise BundleError(f"the bundle's {key} is {value!r}: it must be a positive number.")


def statistics_of(normalize: InputNormalization) -> dict[str, Tensor]:
    """The statistics of a normalisation over the corpus; empty where it keeps none."""
    if normalize.norm_type != "global":
        return {}
    return {
        "glob_mean": normalize.glob_mean,
        "glob_std": normalize.glob_std,
        "count": torch.as_tensor(normalize.count, dtype=torch.float64),
    }


def feature_settings(features: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """The class of features and all their arguments: a default that changes changes no bundle.

    Args:
        features: what the run used.
        given: the arguments that it was made with; filterbanks have some.

    Raises:
        InputError: another class, or an argument that is no number or text.
    """
    name = type(features).__name__
    if FEATURES.get(name) is not type(features):
        raise InputError(
            f"compute_features is a {name}: only {', '.join(FEATURES)} can be exported."
        )
    if isinstance(features, Waveform):
        return {"class": name}
    bound = inspect.signature(Fbank).bind(**given)
    bound.apply_defaults()
    if not _is_plain(bound.arguments):
        raise InputError(f"compute_features has arguments that are no numbers or texts: {given}.")
    return {"class": name, **bound.arguments}


def _make_features(settings: object) -> nn.Module:
    name = settings.get("class") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(name, str) or name not in FEATURES:
        raise BundleError(
            f"the bundle's features are {name!r}. Known classes: {', '.join(FEATURES)}."
        )
    arguments = {key: value for key, value in settings.items() if key != "class"}
    features: nn.Module = _from_settings(FEATURES[name], arguments, "features")
    return features


def _from_settings(cls: type[nn.Module], settings: object, key: str) -> Any:
    """An instance of a class of SpeechBrain's from plain settings."""
    try:
        if not isinstance(settings, dict) or not _is_plain(settings):
            raise TypeError("they are no mapping of numbers and texts")
        return cls(**settings)
    except Exception as error:  # settings of strangers can fail in any way
        raise BundleError(f"the bundle's {key!r} do not make a {cls.__name__}: {error}") from error


def _is_plain(settings: Mapping[str, Any]) -> bool:
    return all(v is None or isinstance(v, bool | int | float | str) for v in settings.values())


def load_statistics(normalize: InputNormalization, found: Mapping[str, Tensor]) -> None:
    """Gives a normalisation its statistics.

    Args:
        normalize: of any kind.
        found: what ``statistics_of`` one of the same kind returned.

    Raises:
        BundleError: statistics of another kind or shape.
    """
    wanted = STATISTICS if normalize.norm_type == "global" else ()
    if set(found) != set(wanted):
        raise BundleError(
            f"the statistics of norm_type={normalize.norm_type} should be "
            f"{', '.join(wanted) or 'none'}, and are {', '.join(sorted(found)) or 'none'}."
        )
    if wanted:
        if found["glob_mean"].dim() != 1 or found["glob_mean"].shape != found["glob_std"].shape:
            raise BundleError("the statistics of the features have the wrong shape.")
        normalize.glob_mean, normalize.glob_std = (found[n].clone() for n in STATISTICS[:2])
        normalize.count = found["count"].item()


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
