"""Widths at which models with different mixers have the same number of parameters.

Found by building models without memory (PyTorch's meta device) and bisection. Recipes have the key
``matched_to``; ``matched_transformer`` is what it reaches.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import mixer_spec
from summarymixing_modules.models.transformer_asr import TransformerASR

# How a model says that a width does not fit it; PyTorch's own attention asserts.
WIDTH_ERRORS = (ValueError, AssertionError)

_COUNTS: dict[tuple[object, ...], int] = {}


@dataclass(frozen=True)
class OpenWidthModel:
    """A model of which all but the width is known: Linear in, TransformerASR, Linear out.

    Attributes:
        attention_type: name of the mixer.
        mixer_options: its options.
        input_size: features of the front end.
        output_neurons: of the output layer.
        outside: parameters of the model that do not depend on its width, such as the front end's.
        arguments: the other arguments of ``TransformerASR`` but ``d_model``.

    Raises:
        InputError: unknown mixer, option or argument.
    """

    attention_type: str
    mixer_options: Mapping[str, Any]
    input_size: int
    output_neurons: int
    outside: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = mixer_spec(self.attention_type).options
        for option in self.mixer_options:
            check_known(f"option of {self.attention_type}", option, options)
        known = set(inspect.signature(TransformerASR).parameters) - {"d_model"}
        for argument in self.arguments:
            check_known("argument of TransformerASR", argument, known)

    def parameters(self, d_model: int) -> int:
        """Number of parameters at a width.

        Raises:
            ValueError, AssertionError: the mixer or the encoder cannot have this width.
        """
        # A mixer can be registered again under its name, in a notebook.
        key = (mixer_spec(self.attention_type).build, repr(self), d_model)
        if key not in _COUNTS:
            _COUNTS[key] = self._count(d_model)
        return _COUNTS[key]

    def _count(self, d_model: int) -> int:
        """All layers have the same size: one is built."""
        layers = int(self.arguments.get("num_encoder_layers", _default("num_encoder_layers")))
        arguments = {"tgt_vocab": self.output_neurons, "num_decoder_layers": 0, **self.arguments}
        with without_memory():
            transformer = TransformerASR(
                input_size=self.input_size,
                d_model=d_model,
                attention_type=self.attention_type,
                mixer_options=self.mixer_options,
                **{**arguments, "num_encoder_layers": 1},
            )
            output = nn.Linear(d_model, self.output_neurons)
        layer = count_parameters(transformer.get_submodule("encoder.layers.0"))
        once = count_parameters(transformer) + count_parameters(output)
        return self.outside + once + (layers - 1) * layer


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not, a shared one counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def match_parameters(build: Callable[[int], nn.Module], target: int, step: int = 2) -> int:
    """The width whose model has the number of parameters nearest to a target, by bisection.

    Args:
        build: width → model; the number of parameters must grow with the width.
        target: number of parameters.
        step: the width is a multiple of it.

    Returns:
        the width.

    Raises:
        InputError: the narrowest model has more than ``target`` already.

    Example:
        >>> match_parameters(lambda width: nn.Linear(width, width), 1000, step=1)
        31
    """

    def count(width: int) -> int:
        with without_memory():
            return count_parameters(build(width))

    return _nearest_width(count, target, step, 64 * step)


def matched_width(
    attention_type: str,
    reference: str,
    reference_d_model: int,
    input_size: int,
    output_neurons: int,
    mixer_options: Mapping[str, Any] | None = None,
    reference_options: Mapping[str, Any] | None = None,
    matched: bool = True,
    multiple_of: int = 2,
    **model: Any,
) -> int:
    """The width that gives a model as many parameters as the same one with another mixer.

    Args:
        attention_type: name of the mixer.
        reference: name of the other one.
        reference_d_model: its width.
        input_size: features of the front end.
        output_neurons: of the output layer.
        mixer_options: options of the mixer.
        reference_options: options of the other one.
        matched: False returns ``reference_d_model``, so that a recipe can have a switch.
        multiple_of: what else the width must be a multiple of; 8 suits half-precision kernels.
        **model: further arguments of ``TransformerASR``, which both models share.

    Returns:
        the width nearest to the target among those that the mixer can have.

    Raises:
        InputError: an unknown name, or no width fits.
    """
    wanted_options, options = dict(mixer_options or {}), dict(reference_options or {})
    sizes: dict[str, Any] = {"input_size": input_size, "output_neurons": output_neurons}
    wanted = OpenWidthModel(attention_type, wanted_options, **sizes, arguments=model)
    other = OpenWidthModel(reference, options, **sizes, arguments=model)
    if not matched or (attention_type, wanted_options) == (reference, options):
        return reference_d_model
    try:
        target = other.parameters(reference_d_model)
    except WIDTH_ERRORS as error:
        raise InputError(f"{reference} at d_model={reference_d_model}: {error}") from error
    return solve_width(wanted, target, reference_d_model, multiple_of)


def matched_transformer(
    d_model: int, reference: tuple[str, Mapping[str, Any]] | None, **arguments: Any
) -> TransformerASR:
    """A ``TransformerASR``, as wide as gives it the parameters of the same one with another mixer.

    Args:
        d_model: width; with a reference, that of the reference.
        reference: name and options of the other mixer; None = no matching.
        **arguments: further arguments of ``TransformerASR``.

    Raises:
        InputError: an unknown name, or no width fits.
    """
    if reference is None:
        return TransformerASR(d_model=d_model, **arguments)
    model = dict(arguments)
    width = matched_width(
        model.pop("attention_type"),
        reference[0],
        d_model,
        model.pop("input_size"),
        model["tgt_vocab"],
        model.pop("mixer_options", None),
        reference[1],
        **model,
    )
    return TransformerASR(d_model=width, **arguments)


def solve_width(model: OpenWidthModel, target: int, near: int, multiple_of: int = 2) -> int:
    """The width at which a model has the number of parameters nearest to a target.

    Args:
        model: what to build.
        target: number of parameters.
        near: a width to start from.
        multiple_of: what the width must be a multiple of, beside what the model asks for.

    Raises:
        InputError: no width fits.
    """
    step = _smallest_step(model, near, multiple_of)
    return _nearest_width(model.parameters, target, step, near)


def _smallest_step(model: OpenWidthModel, near: int, multiple_of: int) -> int:
    """The smallest step of which all multiples fit the model.

    It is asked by building: if two neighbouring multiples of a step fit, and what fits are the
    multiples of some number, then that number divides the step.
    """
    if multiple_of < 1:
        raise InputError(f"multiple_of={multiple_of} must be at least 1.")
    nhead = int(model.arguments.get("nhead", _default("nhead")))
    divisors = [d for d in range(1, 2 * nhead + 1) if 2 * nhead % d == 0]
    steps = sorted({math.lcm(multiple_of, d) for d in (*divisors, 4 * nhead, 8 * nhead)})
    reason: Exception | None = None
    for step in steps:
        first = max(1, near // step)
        try:
            for multiple in (first, first + 1):
                model.parameters(multiple * step)
            return step
        except WIDTH_ERRORS as error:
            reason = error
    raise InputError(
        f"{model.attention_type} with {dict(model.mixer_options)} and nhead={nhead} fits no width "
        f"around {near} that is a multiple of {steps[-1]} (give another multiple_of?): {reason}"
    ) from reason


def _nearest_width(count: Callable[[int], int], target: int, step: int, start: int) -> int:
    low, high = 0, max(1, start // step)
    while count(high * step) < target:
        low, high = high, 2 * high
        if count(high * step) <= count(low * step):
            raise InputError(f"a model of width {high * step} is no larger than one half as wide.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle * step) < target else (low, middle)
    if low == 0:
        if count(step) > target:
            raise InputError(
                f"the narrowest model (width {step}) has {count(step):,} parameters, more than "
                f"the {target:,} that are asked for: give the other model a larger width."
            )
        return step
    return min((low * step, high * step), key=lambda width: abs(count(width) - target))


def _default(argument: str) -> int:
    return int(inspect.signature(TransformerASR).parameters[argument].default)


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raises InputError, with the nearest name, for a name that is not known."""
    names = sorted(known)
    if name in names:
        return
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"{name!r} is not a known {what}{hint}. Known: {', '.join(names)}.")


@contextmanager
def without_memory() -> Iterator[None]:
    """Within it models have shapes only; the random state stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield
