"""Features of audio and their normalisation, as plain settings and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

from summarymixing_modules.bundles.limits import check_feature_sizes
from summarymixing_modules.bundles.manifest import BundleError
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.features.normalization import FixedNormalization
from summarymixing_modules.models.features.valid_frontend import Waveform
from summarymixing_modules.streaming.features import LocalFbank

#: Classes of features that a bundle can name.
FEATURES: dict[str, type[nn.Module]] = {
    "Fbank": Fbank,
    "LocalFbank": LocalFbank,
    "Waveform": Waveform,
}
#: Arguments of SpeechBrain's InputNormalization that decide what it does after training.
NORMALIZE_SETTINGS = ("std_norm", "norm_type", "length_dim", "avoid_padding_norm", "epsilon")
STATISTICS = ("glob_mean", "glob_std", "count")


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
    check_feature_sizes(arguments)
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
