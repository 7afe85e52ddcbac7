"""What can be wrong with a recipe's YAML file, found before anything in it is built.

HyperPyYAML reports little: a key that nothing reads, or an override of an included file that this
file does not have, does nothing and says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from summarymixing_modules.training.options import ConfigError, did_you_mean

_REFERENCE = re.compile(r"<([^<>\[\].]+)")  # the first name in <name>, <name[sub]>, <name.attr>
_INCLUDE = "!include:"


def parse_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file with its tags, building nothing.

    Raises:
        ConfigError: there is no such file (names those beside it), it is no valid YAML (a key
            twice, say), or it does not hold keys.
    """
    if not file.is_file():
        beside = sorted(path.name for path in file.parent.glob("*.yaml"))
        there = f" In {file.parent} there are: {', '.join(beside)}." if beside else ""
        raise ConfigError(f"There is no YAML file {file}.{there}{did_you_mean(file.name, beside)}")
    try:
        tree = YAML().load(file.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds no `key: value` lines.")
    return tree


def check_yaml(
    file: Path, tree: Mapping[str, Any], overrides: Collection[str], known_keys: Collection[str]
) -> None:
    """Check that all values are there and that everything is read by something.

    Args:
        file: where the tree comes from.
        tree: what `parse_yaml` read.
        overrides: top-level keys that the command line gives.
        known_keys: top-level keys that code reads by name.

    Raises:
        ConfigError: names the key, the file and the remedy.
    """
    for key, value in tree.items():
        if key not in overrides:
            _refuse_placeholders(file, key, value)
    read = {name for text in _texts(tree) for name in _REFERENCE.findall(text)} | set(known_keys)
    for key in tree:
        if key not in read and not key.startswith("__"):
            hint = did_you_mean(key, read)
            raise ConfigError(
                f"Nothing reads the key '{key}' of {file}: no <{key}> refers to it, and the "
                f"recipe's code does not know it. Remove it or mend its name.{hint}"
            )
    for key, node in _includes(tree):
        _check_include(file, key, node)


def _tag(node: Any) -> str:
    return getattr(getattr(node, "tag", None), "value", None) or ""


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


def _texts(node: Any) -> Iterator[str]:
    """All texts in a tree, tagged ones (`!ref <a>`) included."""
    value = getattr(node, "value", node)
    if isinstance(value, str):
        yield value
    for _, child in _children(node):
        yield from _texts(child)


def _refuse_placeholders(file: Path, key: str, node: Any) -> None:
    if _tag(node) == "!PLACEHOLDER":
        flag = key.split("[")[0]
        raise ConfigError(f"{file} needs a value for {key}: give --{flag}=VALUE.")
    for name, child in _children(node):
        _refuse_placeholders(file, f"{key}[{name}]", child)


def _includes(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if _tag(node).startswith(_INCLUDE):
        yield name, node
    for key, child in _children(node):
        yield from _includes(child, f"{name}[{key}]" if name else str(key))


def _check_include(file: Path, key: str, node: Any) -> None:
    """Check the overrides that an `!include:` passes against the file it includes."""
    included = file.parent / _tag(node).removeprefix(_INCLUDE)
    tree = parse_yaml(included)
    given = list(node) if isinstance(node, Mapping) else []
    for name in given:
        if name not in tree:
            raise ConfigError(
                f"'{key}' of {file} gives {included} a '{name}', a key that it does not have."
                f"{did_you_mean(name, tree)}"
            )
    for name, value in tree.items():
        if _tag(value) == "!PLACEHOLDER" and name not in given:
            raise ConfigError(f"'{key}' of {file} must give {included} a value for '{name}'.")
    for name, inner in _includes(tree):
        _check_include(included, name, inner)
