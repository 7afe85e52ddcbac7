"""A YAML file of SpeechBrain as plain data: which classes it makes, with which arguments.

Nothing of it is imported or run. Only what is asked for is looked at: a file that also makes
optimizers and loggers is read for its model.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.errors import InputError, did_you_mean
from summarymixing_modules.models.describe import ACTIVATIONS
from summarymixing_modules.training.recipe.yaml_checks import parse_yaml, tag_of

_KEY = re.compile(r"<([^<>\[\].]+)>")  # a reference to a key and nothing else
_MADE = ("!new:", "!name:")


@dataclass(frozen=True)
class Block:
    """What a file makes with ``!new:``, or names with ``!name:``.

    Attributes:
        key: where it stands in the file.
        name: of the class, without its module.
        node: its arguments as they are written.
        read: a node and where it stands → its value.
    """

    key: str
    name: str
    node: Any
    read: Callable[[Any, str], Any]

    @property
    def items(self) -> list[Any]:
        """Arguments by position."""
        return self.read(list(self.node), self.key) if isinstance(self.node, list) else []

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name."""
        return self.read(dict(self.node), self.key) if isinstance(self.node, Mapping) else {}

    def bind(self, make: type, more: Collection[str] = ()) -> dict[str, Any]:
        """All arguments, with the defaults of SpeechBrain.

        Args:
            make: the class, for the names and defaults of its arguments.
            more: further names, which have no default.

        Raises:
            InputError: an argument that the class does not have, or one that only running the file
                would tell.
        """
        parameters = inspect.signature(make).parameters
        given = {**dict(zip(parameters, self.items, strict=False)), **self.arguments}
        known = (*parameters, *more)
        for name in given:
            if name not in known:
                raise InputError(
                    f"{self.key}: a {self.name} with {name}={given[name]} cannot be converted: "
                    f"SpeechBrain's {make.__name__} has no such argument."
                    f"{did_you_mean(name, known)}"
                )
        defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        return {**defaults, **given}


class YamlFile:
    """The keys of a file, each looked at when it is asked for.

    Args:
        path: of the file.

    Raises:
        InputError: no file, or no YAML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = parse_yaml(path)
        self._open: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a top-level key: numbers, texts, lists, mappings, activations and blocks.

        Raises:
            InputError: a value that only running the file would tell, or keys in a circle.
        """
        if key not in self.tree:
            return default
        if key in self._open:
            raise InputError(f"{self.path}: {' and '.join(self._open)} refer to each other.")
        self._open.append(key)
        try:
            return self._value(self.tree[key], key)
        finally:
            self._open.remove(key)

    def saved(self) -> dict[str, Block]:
        """What a checkpointer or a pretrainer keeps under which name."""
        found: dict[str, Block] = {}
        for top in self.tree.values():
            for entry in ("recoverables", "loadables"):
                nodes = top.get(entry) if isinstance(top, Mapping) else None
                for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
                    value = self._value(node, f"{entry}.{name}")
                    if isinstance(value, Block):
                        found.setdefault(name, value)
        return found

    def one(self, name: str) -> Block | None:
        """What the top-level keys make of a class; None = nothing.

        Raises:
            InputError: several of them.
        """
        keys = [key for key, node in self.tree.items() if _class_of(tag_of(node)) == name]
        if len(keys) > 1:
            raise InputError(f"{self.path}: {' and '.join(keys)} are each a {name}: leave one.")
        return self.get(keys[0]) if keys else None

    def _value(self, node: Any, where: str) -> Any:
        tag = tag_of(node)
        found = _KEY.fullmatch(node.value) if tag == "!ref" else None
        if found is not None and found[1] in self.tree:
            return self.get(found[1])
        if tag.startswith(_MADE):
            name, bare = _class_of(tag), not isinstance(node, Mapping | list)
            if bare and tag.startswith("!name:") and name in ACTIVATIONS:
                return ACTIVATIONS[name]
            return Block(where, name, node, self._value)
        if tag not in ("", "!tuple"):
            raise InputError(
                f"{self.path}: {where} is `{tag} {getattr(node, 'value', '')}`, which only running "
                "the file would tell, and nothing of it is run: write the value itself."
            )
        if isinstance(node, Mapping):
            return {name: self._value(child, f"{where}.{name}") for name, child in node.items()}
        if isinstance(node, list):
            return [self._value(child, f"{where}[{index}]") for index, child in enumerate(node)]
        return _plain(getattr(node, "value", node))


def _class_of(tag: str) -> str:
    return re.split(r"[.:]", tag)[-1] if tag.startswith(_MADE) else ""


def _plain(value: Any) -> Any:
    """A scalar; ``(64, 32)`` is a list, as HyperPyYAML has it."""
    if isinstance(value, str) and re.fullmatch(r"\(.*\)", value):
        try:
            return list(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError):
            return value
    for kind in (bool, int, float, str):  # ruamel's classes remember how a value was written
        if isinstance(value, kind):
            return kind(value)
    return value
