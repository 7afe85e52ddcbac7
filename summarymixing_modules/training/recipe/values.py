"""Values of flags and of YAML files, checked by their kinds before anything is built."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from summarymixing_modules.training.recipe.keys import KINDS
from summarymixing_modules.training.recipe.kinds import Kind, NotOfKind, optional
from summarymixing_modules.training.recipe.options import FLAGS, ConfigError, as_yaml
from summarymixing_modules.training.recipe.yaml_checks import RecipeFile, tag_of, yaml_problem

_NULL = ("null", "~")


def checked_flags(given: Mapping[str, str], source: RecipeFile) -> dict[str, str]:
    """Flags whose values are of their kinds, as YAML that says what is meant.

    ``--streaming yes`` becomes True, and a folder that is called 7 a text. Null passes where the
    recipe or a base of it has null.

    Args:
        given: flag → value, as on the command line.
        source: the recipe's file.

    Raises:
        ConfigError: a value is not of the flag's kind or no YAML; names the flag and what it takes.
    """
    return {
        key: text if key in FLAGS else _checked_flag(key, text, _kind_of(key, source))
        for key, text in given.items()
    }


def _kind_of(key: str, source: RecipeFile) -> Kind | None:
    """The kind of a key: null is of it where the recipe or a base of it has null."""
    kind = KINDS.get(key)
    may_be_null = any(key in part and part[key] is None for part in source.parts.values())
    return optional(kind) if kind is not None and may_be_null else kind


def _checked_flag(key: str, text: str, kind: Kind | None) -> str:
    if kind is not None and kind.literal and not tag_of(_parsed(key, text, quietly=True)):
        value: Any = None if text in _NULL else text
    else:
        value = _tuple_as_list(_parsed(key, text))
    if kind is None or tag_of(value):  # of a tag, such as !name:, check_values sees what it gives
        return text
    try:
        read = kind.read(value)
    except NotOfKind as hint:
        raise ConfigError(f"--{key}={text} must be {kind.allowed}.{hint}") from None
    if read is None:
        return "null"
    if _same(read, _parsed(key, text, quietly=True)):
        return text
    return str(read) if isinstance(read, bool) else json.dumps(read, ensure_ascii=False)


def _parsed(key: str, text: str, quietly: bool = False) -> Any:
    """A flag's value as YAML; None if it is none and nobody wants to know."""
    try:
        return YAML().load(as_yaml({key: text}))[key]
    except YAMLError as error:
        if quietly:
            return None
        raise ConfigError(
            f"--{key}={text} cannot be read as YAML: {yaml_problem(error)}."
        ) from None


def check_options(values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Check the options of a script that has no YAML file.

    Args:
        values: option → value.
        kinds: of those options that are to be checked.

    Raises:
        ConfigError: a value is not of the option's kind; names the option and what it takes.
    """
    for key, kind in kinds.items():
        if problem := _problem(values[key], kind):
            raise ConfigError(f"--{key} {problem}")


def check_values(tree: Mapping[str, Any], source: RecipeFile, given: Collection[str]) -> None:
    """Check what the YAML file and its bases say themselves.

    Args:
        tree: the file, all references resolved, nothing built.
        source: the file.
        given: flags, which have been checked.

    Raises:
        ConfigError: a value is not of its key's kind; names key, value, file and line.
    """
    references_last = sorted(tree, key=lambda key: tag_of(source.tree.get(key)) == "!ref")
    for key in references_last:  # what they refer to is to blame
        value = tree[key]
        problem = None if key in given else _problem(value, _kind_of(key, source))
        if problem is not None:
            raise ConfigError(f"{key} in {source.place(key)} {problem}")


def _problem(value: Any, kind: Kind | None) -> str | None:
    """Why a key of a file may not have its value; None if it may."""
    if kind is None:
        return None
    hint = ""
    value = value if kind.literal else _tuple_as_list(value)
    try:
        if _same(kind.read(value), value):
            return None
    except NotOfKind as error:
        hint = str(error)
    return f"is {'null' if value is None else value}, but must be {kind.allowed}.{hint}"


def _tuple_as_list(value: Any) -> Any:
    """``(16, 8)``, a tuple for HyperPyYAML and after its first use for ruamel.yaml, as a list."""
    text = value.value if tag_of(value) == "!tuple" else value
    if isinstance(text, str) and text.startswith("(") and text.endswith(")"):
        return YAML(typ="safe").load(f"[{text[1:-1]}]")
    return value


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one type: 1, 1.0, True and "1" differ."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(_same, one, other))
    types = (bool, float, str)
    return bool(one == other) and all(isinstance(one, t) == isinstance(other, t) for t in types)
