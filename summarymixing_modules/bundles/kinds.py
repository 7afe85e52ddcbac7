"""The kinds of bundles: recognisers, classifiers, and encoders without an output layer.

Every model on speech holds an encoder: `encoder_part` takes it out, as plain data and tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from summarymixing_modules.bundles.assemble import MODEL_PREFIX
from summarymixing_modules.bundles.limits import build_within
from summarymixing_modules.bundles.manifest import BundleError
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.describe import build, describe

RECOGNISER, CLASSIFIER, ENCODER = "recogniser", "classifier", "encoder"
KINDS = (RECOGNISER, CLASSIFIER, ENCODER)
#: What a bundle of a kind is for: what it is, and how to use it.
_USES = {
    RECOGNISER: ("a recogniser: it writes text", "Use `summarymixing transcribe --model={path}`."),
    CLASSIFIER: (
        "a classifier: it tells classes and writes no text",
        "Use `summarymixing classify --model={path}`.",
    ),
    ENCODER: (
        "a pre-trained encoder: it has no output layer, tells no classes and writes no text",
        "Fine-tune it with recipes/LibriSpeech/SSL/fine-tuning --encoder={path}, or take its "
        "hidden states with SSLEncoder.from_bundle.",
    ),
}


def kind_of(config: Mapping[str, Any]) -> str:
    """The kind of a bundle; those of the first version say nothing, and are recognisers.

    Args:
        config: content of ``config.json``.

    Raises:
        BundleError: a kind that this version does not know.
    """
    kind = config.get("kind", RECOGNISER)
    if kind not in KINDS:
        raise BundleError(
            f"the bundle's kind is {kind!r}, and this version of summarymixing_modules knows "
            f"{', '.join(KINDS)}: install a newer one."
        )
    return str(kind)


def require_kind(config: Mapping[str, Any], kind: str, path: object) -> None:
    """Refuses a bundle or run of another kind.

    Args:
        config: content of ``config.json``.
        kind: what is wanted.
        path: of the bundle or run, for the message.

    Raises:
        BundleError: it is of another kind; says how to use it. Or of an unknown one.
    """
    found = kind_of(config)
    if found != kind:
        what, use = _USES[found]
        raise BundleError(f"{path} is {what}. {use.format(path=path)}")


def describe_encoder(model: nn.Module) -> dict[str, Any]:
    """The description of a model's encoder alone, see ``models.describe``.

    Its transformer has no decoder.

    Raises:
        InputError: a model without such an encoder, one that encodes in a way of its own, or parts
            that are not describable.
    """
    if not isinstance(model, AcousticEncoder):
        raise InputError(
            f"a {type(model).__name__} has no encoder of speech: give a model that is an "
            "AcousticEncoder."
        )
    if type(model).encode is not AcousticEncoder.encode:
        raise InputError(
            f"{type(model).__name__} encodes in a way of its own, which front end and transformer "
            "alone do not: move what it does into one of these."
        )
    description = describe(AcousticEncoder(model.frontend, model.transformer))
    description["arguments"]["transformer"]["arguments"]["num_decoder_layers"] = 0
    return description


def encoder_weights(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Those tensors of a model that its encoder has, by the same names.

    Args:
        description: from ``describe_encoder``.
        tensors: of the whole model.
    """
    with torch.device("meta"):
        wanted = build(description).state_dict()
    return {name: tensor for name, tensor in tensors.items() if name in wanted}


def encoder_part(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of the encoder of a bundle of either kind.

    Args:
        config: content of ``config.json``.
        tensors: "model.*" and "normalize.*".

    Raises:
        InputError: an unknown kind or class, or a model without an encoder.
    """
    if kind_of(config) == ENCODER:
        model = config.get("model")
        name = model.get("class") if isinstance(model, dict) else None
        if name != AcousticEncoder.__name__:
            raise BundleError(f"the bundle says that it is an encoder, and holds a {name!r}.")
        return dict(config), dict(tensors)
    of_model = {n: t for n, t in tensors.items() if n.startswith(MODEL_PREFIX)}
    bare = {name.removeprefix(MODEL_PREFIX): tensor for name, tensor in of_model.items()}
    with torch.device("meta"):
        description = describe_encoder(build_within(config.get("model"), bare))
    kept = {f"{MODEL_PREFIX}{n}": t for n, t in encoder_weights(description, bare).items()}
    rest = {name: tensor for name, tensor in tensors.items() if name not in of_model}
    return {**config, "kind": ENCODER, "model": description}, {**kept, **rest}
