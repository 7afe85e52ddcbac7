"""Kinds of values: what a person may give for a key of a recipe, and how it is read.

A kind is a sentence and a function. `training.recipe.keys` says of which kind every key is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from summarymixing_modules.errors import InputError, did_you_mean
from summarymixing_modules.mixers import mixer_names
from summarymixing_modules.mixers.registry import mixer_spec
from summarymixing_modules.training.recipe.yaml_checks import tag_of

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class NotOfKind(ValueError):
    """A value is not of its kind; the message is what can be said besides, or empty."""


@dataclass(frozen=True)
class Kind:
    """What a key may hold.

    Attributes:
        allowed: in words, as they stand after "must be".
        read: the value as YAML has it → the value as the recipe gets it. Raises `NotOfKind`.
        literal: on the command line it is text as it stands there, not YAML.
        nullable: it may be null.
    """

    allowed: str
    read: Callable[[Any], Any]
    literal: bool = False
    nullable: bool = False


def number(
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Kind:
    """Finite numbers from ``least`` or above ``above``, to ``most`` or below ``below``."""

    def read(value: Any) -> float:
        found = _number(value)
        inside = (
            (least is None or found >= least)
            and (most is None or found <= most)
            and (above is None or found > above)
            and (below is None or found < below)
        )
        if not inside:
            raise NotOfKind
        return found

    return Kind(f"a number{_in_words(least, most, above, below)}", read)


def whole(least: int | None = None, most: int | None = None) -> Kind:
    """Whole numbers from ``least`` to ``most``."""
    in_range = number(least, most)

    def read(value: Any) -> int:
        found = in_range.read(value)
        if found != int(found):
            raise NotOfKind
        return int(found)

    return Kind(f"a whole number{_in_words(least, most)}", read)


def choice(*names: str) -> Kind:
    """One of some names."""

    def read(value: Any) -> str:
        if value not in names:
            raise NotOfKind(did_you_mean(str(value), names))
        return str(value)

    return Kind(f"one of {', '.join(names)}" if len(names) > 1 else names[0], read)


def optional(kind: Kind) -> Kind:
    """A kind, or null."""
    if kind.nullable:
        return kind

    def read(value: Any) -> Any:
        return None if value is None else kind.read(value)

    return Kind(f"{kind.allowed}, or null", read, kind.literal, nullable=True)


def either(one: Kind, other: Kind) -> Kind:
    """One of two kinds."""

    def read(value: Any) -> Any:
        try:
            return one.read(value)
        except NotOfKind:
            return other.read(value)

    return Kind(f"{one.allowed}, or {other.allowed}", read)


def list_of(kind: Kind, example: str, least: int = 0) -> Kind:
    """Lists of a kind, with ``least`` entries or more; the example shows how to write one."""

    def read(value: Any) -> list[Any]:
        if isinstance(value, str | int | float):
            raise NotOfKind(f" Write [{value}].")
        if not isinstance(value, list) or len(value) < least:
            raise NotOfKind
        return [kind.read(entry) for entry in value]

    return Kind(f"a list such as {example}", read)


def _read_boolean(value: Any) -> bool:
    text = str(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise NotOfKind
    return text in _TRUE


def _read_odd(value: Any) -> int:
    found = int(POSITIVE_WHOLE.read(value))
    if found % 2 == 0:
        raise NotOfKind
    return found


def _read_even(value: Any) -> int:
    return 2 * int(POSITIVE_WHOLE.read(_number(value) / 2))


def _read_text(value: Any) -> str:
    if isinstance(value, bool):
        raise NotOfKind(f" Write '{value}' in quotes where a text is meant.")
    if not isinstance(value, str | int | float) or value == "":
        raise NotOfKind
    return str(value)


def _read_file(value: Any) -> str:
    if not Path(_read_text(value)).is_file():
        raise NotOfKind
    return str(value)


def _read_options(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise NotOfKind
    return value


def _read_block(value: Any) -> Any:
    if not tag_of(value):
        raise NotOfKind
    return value


def _read_mixer(value: Any) -> str:
    try:
        return mixer_spec(str(value)).name  # looks for mixers of other packages, too
    except InputError:
        raise NotOfKind(did_you_mean(str(value), mixer_names())) from None


def _read_device(value: Any) -> str:
    """A device of this machine; nothing is put on it."""
    name = str(value)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise NotOfKind(" GPUs are called cuda." if "gpu" in name else "") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise NotOfKind(f" The GPUs that torch can use here: {torch.cuda.device_count()}.")
    if device.type not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise NotOfKind(f" ({str(error).splitlines()[0]})") from None
    return name


def _number(value: Any) -> float:
    """A finite number; True is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NotOfKind
    return int(value) if isinstance(value, int) else float(value)


def _in_words(
    least: float | None,
    most: float | None,
    above: float | None = None,
    below: float | None = None,
) -> str:
    words = []
    if least is not None:
        words.append(
            f"from {least}" if most is not None or below is not None else f"from {least} on"
        )
    if above is not None:
        words.append(f"above {above}")
    if most is not None:
        words.append(f"up to {most}")
    if below is not None:
        words.append(f"to below {below}")
    return "".join(f" {word}" for word in words)


BOOLEAN = Kind("True or False", _read_boolean)
TEXT = Kind("a text", _read_text, literal=True)
PATH = Kind("a path", _read_text, literal=True)
FILE = Kind("a file that is there", _read_file, literal=True)
OPTIONS = Kind("options such as {name: value}", _read_options)
BLOCK = Kind("a block of the YAML file", _read_block)
MIXER = Kind(f"a mixer: {', '.join(mixer_names())}", _read_mixer)
DEVICE = Kind("a device of this machine: cpu, cuda, cuda:1, …", _read_device)
POSITIVE_WHOLE = whole(1)
COUNT = whole(0)
ODD = Kind("an odd whole number from 1 on", _read_odd)
EVEN = Kind("an even whole number from 2 on", _read_even)
POSITIVE = number(above=0)
NOT_NEGATIVE = number(0)
SHARE = number(0, 1)
BELOW_ONE = number(0, below=1)
FACTOR = number(above=0, most=1)
NAMES = list_of(TEXT, "[one, two]")
SIZES = list_of(POSITIVE_WHOLE, "[64, 32]")
