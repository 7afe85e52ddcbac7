"""What every registered mixer can do and what it costs, as a table (``summarymixing mixers``).

Nothing is computed: mixers are built and called on PyTorch's meta device, where tensors have shapes
only.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import (
    MixerForm,
    MixerSize,
    mixer_forms,
    mixer_spec,
)
from summarymixing_modules.text_tables import aligned

# The second of the two lengths at which the cost is shown, in lengths of the first.
LONGER = 4
FLAGS = ("linear_time", "bidirectional", "causal", "chunked", "streaming")
FOOTER = """\
Cost: matrix products and convolutions of one forward pass over that many frames at full context,
2 FLOPs for a multiply-add, divided by the frames. Elementwise work is not counted: activations,
norms, softmax, and the recurrence of a state-space model. No time is measured.\
"""


@dataclass(frozen=True)
class MixerListing:
    """One form of a registered mixer.

    Attributes:
        form: its name.
        attention_type: name of the mixer.
        options: options that make the form.
        capabilities: what it can do.
        parameters: how many.
        flops_per_frame: by number of frames.
        source: paper and section.
    """

    form: str
    attention_type: str
    options: Mapping[str, Any]
    capabilities: Capabilities
    parameters: int
    flops_per_frame: Mapping[int, float]
    source: str


def list_mixers(
    size: MixerSize, frames: int = 1000, attention_type: str | None = None
) -> list[MixerListing]:
    """Describes every form of every mixer, those of other installed packages included.

    Args:
        size: of the host layer.
        frames: T; the cost is counted for T and 4T frames.
        attention_type: only this mixer; None = all.

    Raises:
        InputError: unknown mixer, or a size that one of them cannot have.
    """
    if frames < 1:
        raise InputError(f"--frames={frames} must be at least 1.")
    forms = mixer_forms(also_none=True)
    if attention_type is not None:
        forms = list(mixer_spec(attention_type).forms)
    return [_describe(form, size, frames) for form in forms]


def option_defaults(attention_type: str) -> dict[str, Any]:
    """The options of a mixer and their defaults; None is often "as the host layer"."""
    spec = mixer_spec(attention_type)
    parameters = inspect.signature(spec.build).parameters
    return {name: parameters[name].default for name in spec.options}


def flops_per_frame(mixer: Mixer, frames: int) -> float:
    """FLOPs of matrix products and convolutions in ``forward``, divided by the frames.

    Args:
        mixer: on the meta device, or small enough to run.
        frames: T.
    """
    x_BTD = torch.empty(1, frames, mixer.enc_dim, device=_device_of(mixer))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mixer(x_BTD)
    return counter.get_total_flops() / frames


def mixers_as_text(listings: Sequence[MixerListing]) -> str:
    """A table with aligned columns, and what its figures mean."""
    lengths = list(listings[0].flops_per_frame)
    header = ["mixer", "linear", "bidirectional", "causal", "chunked", "streaming", "positions"]
    header += ["parameters", *(f"MFLOP/frame, T={length}" for length in lengths), "source"]
    rows = [[listing.form, *_abilities(listing), *_figures(listing)] for listing in listings]
    return f"{aligned([header, *rows], range(7, 8 + len(lengths)))}\n\n{FOOTER}"


def options_as_text(attention_type: str) -> str:
    """A table of the options of a mixer."""
    defaults = option_defaults(attention_type)
    if not defaults:
        return f"{attention_type} has no options."
    rows = [["option", "default"], *([name, str(value)] for name, value in defaults.items())]
    return f"Options of {attention_type}:\n\n{aligned(rows)}"


def mixers_as_json(listings: Sequence[MixerListing]) -> str:
    """Everything in the listings, and the options of each mixer, for programs."""
    rows = [
        {**asdict(listing), "option_defaults": option_defaults(listing.attention_type)}
        for listing in listings
    ]
    return json.dumps(rows, indent=2, default=str)


def _describe(form: MixerForm, size: MixerSize, frames: int) -> MixerListing:
    try:
        with torch.device("meta"):
            mixer = form.build(size).eval()
    except ValueError as error:
        raise InputError(
            f"{form.name} cannot have --d_model={size.d_model} --nhead={size.nhead} "
            f"--d_ffn={size.d_ffn}: {error}"
        ) from error
    return MixerListing(
        form.name,
        form.attention_type,
        form.options,
        mixer.capabilities,
        sum(parameter.numel() for parameter in mixer.parameters()),
        {length: flops_per_frame(mixer, length) for length in (frames, LONGER * frames)},
        mixer_spec(form.attention_type).source,
    )


def _device_of(mixer: Mixer) -> torch.device:
    parameter = next(mixer.parameters(), None)
    return torch.device("meta") if parameter is None else parameter.device


def _abilities(listing: MixerListing) -> list[str]:
    can = listing.capabilities
    if not can.mixes:
        return ["-"] * (len(FLAGS) + 1)
    return [*("yes" if getattr(can, flag) else "no" for flag in FLAGS), can.positions]


def _figures(listing: MixerListing) -> list[str]:
    costs = (f"{flops / 1e6:.2f}" for flops in listing.flops_per_frame.values())
    return [f"{listing.parameters:,}", *costs, listing.source]
