"""Widths at which models with different mixers have the same number of parameters.

A comparison is fair in parameters when a mixer that needs fewer of them gets a wider model. Widths
are found by building models without memory (PyTorch's meta device) and bisection. Two references:

* ``matched_to`` of a recipe, a mixer at the recipe's width: ``matched_transformer``;
* the pre-training study of arXiv 2409.02596, whose widths are in ``hparams/matched_sizes.yaml``:
  ``matched_d_model``.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from ruamel.yaml import YAML
from torch import nn

from summarymixing_modules.errors import InputError, near_name
from summarymixing_modules.mixers import mixer_spec
from summarymixing_modules.mixers.registry import check_option
from summarymixing_modules.models.features.frontend import ConvFrontEnd2d
from summarymixing_modules.models.transformer_asr import TransformerASR
from summarymixing_modules.repository import REPOSITORY

TABLE = REPOSITORY / "hparams" / "matched_sizes.yaml"
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
        for option in self.mixer_options:
            check_option(self.attention_type, option)
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

    def width_as(self, other: OpenWidthModel, d_model: int, multiple_of: int = 2) -> int:
        """The width at which this model has the parameters of another one, as near as can be.

        Args:
            other: what to be as large as.
            d_model: width of the other one.
            multiple_of: what the width must be a multiple of, beside what the model asks for.

        Raises:
            InputError: the other one cannot have its width, or no width fits.
        """
        try:
            target = other.parameters(d_model)
        except WIDTH_ERRORS as error:
            raise InputError(f"{other.attention_type} at d_model={d_model}: {error}") from error
        step = _smallest_step(self, d_model, multiple_of)
        return nearest_width(self.parameters, target, step, d_model)

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


def matched_width(
    attention_type: str,
    reference: str,
    reference_d_model: int,
    input_size: int,
    output_neurons: int,
    mixer_options: Mapping[str, Any] | None = None,
    reference_options: Mapping[str, Any] | None = None,
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
        multiple_of: what else the width must be a multiple of; 8 suits half-precision kernels.
        **model: further arguments of ``TransformerASR``, which both models share.

    Returns:
        the width nearest to the target among those that the mixer can have.

    Raises:
        InputError: an unknown name, or no width fits.
    """
    sizes: dict[str, Any] = {"input_size": input_size, "output_neurons": output_neurons}
    wanted = OpenWidthModel(attention_type, dict(mixer_options or {}), **sizes, arguments=model)
    other = OpenWidthModel(reference, dict(reference_options or {}), **sizes, arguments=model)
    if wanted == other:
        return reference_d_model
    return wanted.width_as(other, reference_d_model, multiple_of)


def matched_transformer(
    reference: tuple[str, Mapping[str, Any]] | None, more: Mapping[str, Any], **arguments: Any
) -> TransformerASR:
    """A ``TransformerASR``, as wide as gives it the parameters of the same one with another mixer.

    Args:
        reference: name and options of the other mixer; None = no matching.
        more: further arguments of ``TransformerASR``; ``d_model`` is the width of the reference.
        **arguments: arguments of ``TransformerASR``.

    Raises:
        InputError: an unknown name, or no width fits.
    """
    arguments |= more
    if reference is not None:
        name, options = reference
        arguments["d_model"] = matched_width(
            reference=name,
            reference_options=options,
            reference_d_model=arguments.pop("d_model"),
            output_neurons=arguments["tgt_vocab"],
            **arguments,
        )
    return TransformerASR(**arguments)


@dataclass(frozen=True)
class PublishedSize:
    """A model of arXiv 2409.02596.

    Attributes:
        encoder_module: "conformer" or "branchformer".
        size: "base" or "large".
        attention_type: name of the mixer.
        nhead: heads.
        d_model: features D.
        millions: of parameters, as published; None = not published.
    """

    encoder_module: str
    size: str
    attention_type: str
    nhead: int
    d_model: int
    millions: float | None

    @property
    def model(self) -> OpenWidthModel:
        """It, without its width."""
        return study_model(self.attention_type, self.encoder_module, self.size, self.nhead)


def matched_d_model(
    attention_type: str,
    encoder_module: str = "conformer",
    size: str = "base",
    nhead: int | None = None,
    mixer_options: Mapping[str, Any] | None = None,
    matched: bool = True,
    d_model: int | None = None,
) -> int:
    """The width of arXiv 2409.02596 for a mixer; solved for where the study has none.

    A published width holds for every setting that gives the mixer as many parameters as the
    study's. Otherwise the target is the number of parameters of the study's RelPosMHAXL.

    Args:
        attention_type: name of the mixer.
        encoder_module: "conformer" or "branchformer".
        size: "base" or "large".
        nhead: heads; None = the study's 8.
        mixer_options: options of the mixer that differ from the study's.
        matched: False returns the width of RelPosMHAXL, so that a recipe can have a switch.
        d_model: a width that was chosen by hand, and is returned.

    Returns:
        the width.

    Raises:
        InputError: an unknown name, no width fits, or the table is missing.
    """
    mixer_spec(attention_type)
    if d_model is not None:
        return d_model
    published = _rows(encoder_module, size)
    reference = next(row for row in published if row.attention_type == _table()["reference"])
    if not matched:
        return reference.d_model
    wanted = study_model(attention_type, encoder_module, size, nhead, mixer_options)
    for row in published:
        if row.attention_type == attention_type:
            with suppress(*WIDTH_ERRORS):
                if wanted.parameters(row.d_model) == row.model.parameters(row.d_model):
                    return row.d_model
    return wanted.width_as(reference.model, reference.d_model)


def study_model(
    attention_type: str,
    encoder_module: str = "conformer",
    size: str = "base",
    nhead: int | None = None,
    mixer_options: Mapping[str, Any] | None = None,
) -> OpenWidthModel:
    """The pre-training model of arXiv 2409.02596; arguments as in ``matched_d_model``."""
    table = _table()
    check_known("size", size, table["num_encoder_layers"])
    with without_memory():
        front_end = ConvFrontEnd2d(table["n_mels"], table["cnn_channels"])
    return OpenWidthModel(
        attention_type,
        {**table["mixer_options"].get(attention_type, {}), **(mixer_options or {})},
        front_end.output_size,
        table["output_neurons"],
        count_parameters(front_end),
        {
            "encoder_module": encoder_module,
            "num_encoder_layers": table["num_encoder_layers"][size],
            "nhead": table["nhead"] if nhead is None else nhead,
            **{name: table[name] for name in ("kernel_size", "d_ffn", "csgu_linear_units")},
        },
    )


def published_sizes() -> list[PublishedSize]:
    """Every model of ``hparams/matched_sizes.yaml``."""
    table = _table()
    return [
        PublishedSize(encoder_module, size, **{"nhead": table["nhead"], **row})
        for encoder_module, sizes in table["published"].items()
        for size, rows in sizes.items()
        for row in rows
    ]


def _rows(encoder_module: str, size: str) -> list[PublishedSize]:
    rows = published_sizes()
    check_known("encoder_module", encoder_module, {row.encoder_module for row in rows})
    rows = [row for row in rows if row.encoder_module == encoder_module]
    check_known("size", size, {row.size for row in rows})
    return [row for row in rows if row.size == size]


@functools.cache
def _table() -> dict[str, Any]:
    if not TABLE.is_file():
        raise InputError(
            f"the table of matched sizes, {TABLE}, is not beside the package: clone the "
            "repository and install it with `pip install -e .`"
        )
    return YAML(typ="safe").load(TABLE.read_text(encoding="utf-8"))


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


def nearest_width(count: Callable[[int], int], target: int, step: int, start: int) -> int:
    """The multiple of a step with the number of parameters nearest to a target, by bisection.

    Args:
        count: width → number of parameters; it must grow with the width.
        target: number of parameters.
        step: of the width.
        start: a width to start from.

    Raises:
        InputError: the narrowest model has more than ``target`` already, or the number does not
            grow.
    """
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
    if name not in names:
        raise InputError(
            f"{name!r} is not a known {what}{near_name(str(name), names)}. "
            f"Known: {', '.join(names)}."
        )


@contextmanager
def without_memory() -> Iterator[None]:
    """Within it models have shapes only; the random state stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield
