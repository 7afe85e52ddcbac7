"""References and objects of a recipe's YAML file, checked with their lines before any is built.

HyperPyYAML finds a mistake when it gets there, after minutes of building perhaps, and names neither
the file nor the line.
"""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from summarymixing_modules.errors import did_you_mean
from summarymixing_modules.training.recipe.options import ConfigError
from summarymixing_modules.training.recipe.yaml_checks import RecipeFile, children_of, place, tag_of

_REFERENCE = re.compile(r"<([^<>]*)>")
_OBJECTS = ("!new:", "!name:", "!apply:", "!applyref:", "!module:")


def check_objects(recipe: RecipeFile) -> None:
    """Check that references lead somewhere, and that classes exist and take what they are given.

    Raises:
        ConfigError: names the file, the line and what is near.
    """
    for file, part in recipe.parts.items():
        for parent, key, node in _nodes(part):
            if parent is not part or recipe.written_in(key) == file:
                _check_node(file, parent, key, node, recipe.tree)


def _check_node(file: Path, parent: Any, key: Any, node: Any, whole: Mapping[str, Any]) -> None:
    """Check a node of a file; references look into the whole recipe."""
    tag = tag_of(node)
    if tag in ("!ref", "!copy"):
        for reference in _REFERENCE.findall(node.value):
            if problem := _broken(reference, whole):
                raise ConfigError(f"{place(file, parent, key)} refers to {problem}")
    for kind in _OBJECTS:
        if tag.startswith(kind) and (problem := _unbuildable(kind, tag, node)):
            raise ConfigError(f"{place(file, parent, key)} {problem}")


def _nodes(parent: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Every node in a tree with the mapping or list that it stands in, and its key there."""
    for key, node in children_of(parent):
        yield parent, key, node
        yield from _nodes(node)


def _broken(reference: str, whole: Mapping[str, Any]) -> str | None:
    """What is wrong with ``a``, ``a[b]`` or ``a[b].attribute``; None if it leads somewhere."""
    branch: Any = whole
    for part in reference.partition(".")[0].replace("]", "").split("["):
        if not isinstance(branch, Mapping):
            return None  # known when it is resolved
        if part not in branch:
            hint = did_you_mean(part, map(str, branch))
            return f"<{reference}>, but there is no {part}.{hint}"
        branch = branch[part]
    return None


def _unbuildable(kind: str, tag: str, node: Any) -> str | None:
    """Why something that the file names cannot be made; None if it can, as far as one sees."""
    name = tag.removeprefix(kind)
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        return f"names {name}, which cannot be imported: {error.value}"
    if found is None:
        module, _, last = name.rpartition(".")
        near = did_you_mean(last, dir(pydoc.locate(module)), prefix=f"{module}.")
        return f"names {name}, which does not exist.{near}"
    if not callable(found) or kind in ("!applyref:", "!module:"):
        return None
    return _misfit(name, found, node, partial=kind == "!name:")


def _misfit(name: str, make: Callable[..., Any], node: Any, partial: bool) -> str | None:
    """Which argument is unknown or missing."""
    try:
        signature = inspect.signature(make)
    except ValueError:  # of some builtins
        return None
    positional = [None] * len(node) if isinstance(node, list) else []
    named = dict.fromkeys(node) if isinstance(node, Mapping) else {}
    try:
        (signature.bind_partial if partial else signature.bind)(*positional, **named)
    except TypeError as error:
        unknown = [key for key in named if key not in signature.parameters]
        if not unknown or "unexpected" not in f"{error}" and "missing" not in f"{error}":
            return f"does not fit {name}: {error}."
        near = did_you_mean(unknown[0], signature.parameters)
        return f"gives {name} the argument {unknown[0]}, which it does not take.{near}"
    return None
