"""A model as plain data and back: `describe` and `build`.

A description holds names, numbers and texts only. `build` looks its names up among the classes that
were decorated with `describable`, its activations among `ACTIVATIONS`, and a mixer, named by the
argument ``attention_type``, in the registry of mixers. Nothing in it is imported or executed, so it
may come from a stranger.

    {"class": "CTCModel", "arguments": {"frontend": {"class": …}, "output_neurons": 29, …}}

Inside arguments, a mapping is ``{"mapping": {…}}`` and an activation ``{"activation": "GELU"}``.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from speechbrain.nnet.activations import Swish
from torch import nn

from summarymixing_modules.errors import InputError

#: Activation classes that a description can name.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    activation.__name__: activation
    for activation in (
        nn.ELU,
        nn.GELU,
        nn.Hardswish,
        nn.Identity,
        nn.LeakyReLU,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
        nn.SELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Tanh,
        Swish,
    )
}

_ARGUMENTS = "_described_arguments"
_CLASSES: dict[str, type[nn.Module]] = {}
_Module = TypeVar("_Module", bound=nn.Module)


def describable(cls: type[_Module]) -> type[_Module]:
    """Class decorator: instances remember their arguments, and `build` knows the class by its name.

    Raises:
        ValueError: another class has this name.
    """
    name = cls.__name__
    if name in _CLASSES:
        raise ValueError(f"a class {name} is describable already ({_CLASSES[name].__module__}).")
    original = cls.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if type(self) is cls:  # a subclass has other arguments
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            _, *arguments = bound.arguments.items()
            # In __dict__: what is in there twice must not be registered twice.
            self.__dict__[_ARGUMENTS] = dict(arguments)

    cls.__init__ = init  # type: ignore[method-assign]
    _CLASSES[name] = cls
    return cls


def describe(module: nn.Module) -> dict[str, Any]:
    """The class of a module and the arguments that it was made with, defaults included, as JSON.

    Changes made to the module after it was built are not in there.

    Raises:
        InputError: a class that is not `describable`, or an argument that is not plain.
    """
    cls = type(module)
    if _CLASSES.get(cls.__name__) is not cls:
        raise InputError(
            f"a {cls.__name__} cannot be exported: put @describable (models/describe.py) on the "
            f"class. Those that can: {', '.join(sorted(_CLASSES))}."
        )
    name, arguments = cls.__name__, module.__dict__[_ARGUMENTS]
    plain = {key: _plain(value, f"{name}({key}=…)") for key, value in arguments.items()}
    return {"class": name, "arguments": plain}


def build(description: object) -> nn.Module:
    """The module that a description stands for, its weights drawn anew.

    Raises:
        InputError: no description, an unknown class or activation, or arguments that do not fit.
    """
    if not isinstance(description, dict) or set(description) != {"class", "arguments"}:
        raise InputError(f"{_short(description)} is no description of a model.")
    name, given = description["class"], description["arguments"]
    if not isinstance(name, str) or name not in _CLASSES:
        raise InputError(
            f"the description names a class {_short(name)}. Known: {', '.join(sorted(_CLASSES))}."
        )
    if not isinstance(given, dict):
        raise InputError(f"the arguments of {name} are {_short(given)}, no mapping.")
    arguments = {str(key): _value(value) for key, value in given.items()}
    try:
        return _CLASSES[name](**arguments)
    except InputError:
        raise
    except Exception as error:  # arguments of strangers can fail in any way
        raise InputError(f"the description's arguments do not make a {name}: {error}") from error


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, type):
        name = value.__name__
        if ACTIVATIONS.get(name) is value:
            return {"activation": name}
    elif isinstance(value, Mapping):
        return {"mapping": {str(key): _plain(item, where) for key, item in value.items()}}
    elif isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    elif value is None or isinstance(value, bool | int | str):
        return value
    elif isinstance(value, float) and math.isfinite(value):
        return value
    raise InputError(
        f"{where} is {_short(value)}, which cannot be exported: only numbers, texts, lists, "
        f"mappings, describable modules and the activations {', '.join(ACTIVATIONS)} can."
    )


def _value(plain: object) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if set(plain) == {"activation"}:
        name = plain["activation"]
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise InputError(
                f"the description names an activation {_short(name)}. "
                f"Known: {', '.join(ACTIVATIONS)}."
            )
        return ACTIVATIONS[name]
    if set(plain) == {"mapping"} and isinstance(plain["mapping"], dict):
        return {key: _value(item) for key, item in plain["mapping"].items()}
    return build(plain)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
