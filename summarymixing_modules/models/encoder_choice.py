"""The encoders that a ``TransformerASR`` can have, and which of its arguments each takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from summarymixing_modules.encoders import (
    BranchformerEncoder,
    ConformerEncoder,
    ContextNetEncoder,
    TransformerEncoder,
)
from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Mixer
from summarymixing_modules.models.initialisation import check_initialisation, initialise

CONTEXTNET_OPTIONS = ("conv_channels", "kernel_size", "num_layers", "inner_dim", "alpha")
#: Arguments that every encoder has under the name that they have in ``TransformerASR``.
_COMMON = (
    "d_model",
    "dropout",
    "attention_type",
    "output_hidden_states",
    "activation_checkpointing",
)
_DEPTH = {"num_layers": "num_encoder_layers", "nhead": "nhead", "layerdrop_prob": "layerdrop_prob"}


@dataclass(frozen=True)
class EncoderKind:
    """One of the encoders.

    Attributes:
        make: the class.
        arguments: argument of the class → argument of ``TransformerASR``, besides the common ones.
        fixed: arguments of the class that are always the same.
        without_order: names of ``positions`` of a mixer that want sine positions at the input.
    """

    make: type[MixerEncoder] | type[ContextNetEncoder]
    arguments: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    without_order: frozenset[str] = frozenset({"absolute"})

    @property
    def name(self) -> str:
        """As papers write it: Branchformer."""
        return self.make.__name__.removesuffix("Encoder")


def _as_named(*names: str) -> dict[str, str]:
    return {name: name for name in names}


ENCODERS: dict[str, EncoderKind] = {
    "conformer": EncoderKind(
        ConformerEncoder,
        _DEPTH
        | {"activation": "conformer_activation"}
        | _as_named("d_ffn", "kernel_size", "bias", "causal"),
    ),
    "branchformer": EncoderKind(
        BranchformerEncoder,
        _DEPTH
        | {"activation": "branchformer_activation", "padding_mode": "csgu_padding_mode"}
        | _as_named("kernel_size", "csgu_linear_units", "gate_activation", "use_linear_after_conv")
        | _as_named("merge_width"),
    ),
    "transformer": EncoderKind(
        TransformerEncoder,
        _DEPTH | _as_named("d_ffn", "activation", "causal"),
        {"normalize_before": True},
        frozenset({"absolute", "none"}),
    ),
    "contextnet": EncoderKind(ContextNetEncoder, {"num_blocks": "num_encoder_layers"}),
}


def make_encoder(
    encoder_module: str, settings: Mapping[str, Any]
) -> MixerEncoder | ContextNetEncoder:
    """An encoder, initialised; ContextNet keeps its own initialisation.

    Args:
        encoder_module: name of the encoder.
        settings: arguments of ``TransformerASR``.

    Raises:
        InputError: see ``check_encoder``, ``check_initialisation`` and
            ``check_contextnet_options``.
    """
    check_initialisation(settings["initialisation"])
    check_encoder(encoder_module, settings["causal"], settings["layerdrop_prob"])
    contextnet = check_contextnet_options(settings["contextnet_options"] or {})
    kind = ENCODERS[encoder_module]
    encoder = kind.make(
        **{name: settings[name] for name in _COMMON},
        **{argument: settings[name] for argument, name in kind.arguments.items()},
        **kind.fixed,
        **(contextnet if encoder_module == "contextnet" else {}),
        **(settings["mixer_options"] or {}),
    )
    if isinstance(encoder, MixerEncoder):
        initialise(encoder, settings["initialisation"])
    return encoder


def check_encoder(encoder_module: str, causal: bool, layerdrop_prob: float) -> None:
    """Refuses what an encoder cannot do; arguments as in ``TransformerASR``.

    Raises:
        InputError: names the argument and the remedy.
    """
    if encoder_module not in ENCODERS:
        raise InputError(
            f"unknown encoder_module {encoder_module!r}. Known: {', '.join(ENCODERS)}."
        )
    kind = ENCODERS[encoder_module]
    if causal and "causal" not in kind.arguments:
        raise InputError(f"no {kind.name} is causal: use encoder_module=conformer or transformer.")
    if layerdrop_prob and encoder_module == "contextnet":
        raise InputError(
            f"layerdrop_prob={layerdrop_prob} cannot be had with encoder_module=contextnet, whose "
            "blocks change the width: give layerdrop_prob=0."
        )


def check_contextnet_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, if all of them exist.

    Raises:
        InputError: names one that does not.
    """
    for name in options:
        if name not in CONTEXTNET_OPTIONS:
            raise InputError(
                f"contextnet_options has no {name!r}. Known: {', '.join(CONTEXTNET_OPTIONS)}."
            )
    return dict(options)


def require_chunks(encoder: nn.Module, flag: str) -> None:
    """Refuses encoders that cannot be cut into chunks.

    Args:
        encoder: of a ``TransformerASR``.
        flag: what asks for chunks, for the message.

    Raises:
        InputError: names the encoder or the mixer, the flag, and the mixers that can.
    """
    if not isinstance(encoder, MixerEncoder):
        raise InputError(
            f"{flag} cuts utterances into chunks, which a {type(encoder).__name__} cannot: use "
            "--encoder_module=conformer, branchformer or transformer."
        )
    for module in encoder.modules():
        if isinstance(module, Mixer):
            module.require("chunked", flag)
