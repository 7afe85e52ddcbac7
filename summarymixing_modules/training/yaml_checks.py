"""A recipe's YAML file, and what can be wrong with it, found before anything in it is built.

HyperPyYAML reports little: a key that nothing reads, or an override of an included file that this
file does not have, does nothing and says nothing.

A variant of a recipe is a short file: `base: other.yaml` and the keys of that file that change. The
base may be a recipe for another corpus: what this corpus needs besides, its code reads by name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.reader import ReaderError

from summarymixing_modules.training.options import ConfigError, did_you_mean

_REFERENCE = re.compile(r"<([^<>\[\].]+)")  # the first name in <name>, <name[sub]>, <name.attr>
INCLUDE = "!include:"
_ANY_WIDTH = 1 << 20  # a line is not to be wrapped
_BASE = "base"
GENERATED = "# Generated "  # the first line of a run's record, as SpeechBrain writes it
FLAT_TAGS = ("", "!ref", "!PLACEHOLDER")  # of values that a variant may change


@dataclass(frozen=True)
class RecipeFile:
    """A recipe's YAML file, or a variant of one.

    Attributes:
        file: the file that was asked for.
        written_in: the file with the whole recipe: ``file``, or what its key ``base`` names.
        tree: content of ``written_in``.
        changes: keys to which a variant gives other values, and those that it adds.
    """

    file: Path
    written_in: Path
    tree: dict[str, Any]
    changes: dict[str, Any]

    def overrides(self, more: str = "") -> str:
        """What HyperPyYAML is to change in ``written_in``, as YAML.

        Args:
            more: further overrides as YAML, such as those of the command line; they win.
        """
        text = io.StringIO()
        yaml = YAML()
        yaml.width = _ANY_WIDTH
        if both := {**self.changes, **(yaml.load(more) or {})}:
            yaml.dump(both, text)
        return text.getvalue()


def read_recipe(file: Path, known_keys: Collection[str] = ()) -> RecipeFile:
    """Read a recipe's YAML file, or a variant and the file it is based on; nothing is built.

    Args:
        file: the YAML file.
        known_keys: top-level keys that code reads by name: a variant may add these to its base.

    Raises:
        ConfigError: see `parse_yaml`; or a variant changes a key that its base does not have and
            no code knows, or that is no plain value, or it is based on another variant. Names key,
            files and remedy.
    """
    tree = parse_yaml(file)
    if _BASE not in tree:
        return RecipeFile(file, file, tree, {})
    changes = tree
    named = changes.pop(_BASE)
    if not isinstance(named, str):
        raise ConfigError(f"'{_BASE}' of {file} must name a YAML file, not {named}.")
    base = file.parent / named
    tree = parse_yaml(base)
    if _BASE in tree:
        raise ConfigError(
            f"{file} is based on {base}, which is based on another file itself: "
            f"write '{_BASE}: {tree[_BASE]}' and the changes of both into {file.name}."
        )
    for key in changes:
        if key not in tree and key not in known_keys:
            hint = did_you_mean(key, tree)
            raise ConfigError(f"{file} changes '{key}', a key that {base} does not have.{hint}")
        if tag_of(tree.get(key)) not in FLAT_TAGS:
            raise ConfigError(
                f"{file} changes '{key}', but in {base} that is a block ({tag_of(tree[key])}), of "
                "which a variant cannot replace parts: change the plain values that it refers to."
            )
    return RecipeFile(file, base, tree, changes)


def parse_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file with its tags, building nothing.

    Raises:
        ConfigError: there is no such file (names those beside it), it is no text, it is no valid
            YAML (a key twice, say; names the line), or it does not hold keys.
    """
    if not file.is_file():
        beside = sorted(path.name for path in file.parent.glob("*.yaml"))
        there = f" In {file.parent} there are: {', '.join(beside)}." if beside else ""
        raise ConfigError(f"There is no YAML file {file}.{there}{did_you_mean(file.name, beside)}")
    try:
        tree = YAML().load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ReaderError) as error:
        raise ConfigError(f"{file} is no text, and so no YAML file ({error.reason}).") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}," if mark else ""
        raise ConfigError(f"{file}{line} is not valid YAML: {yaml_problem(error)}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds no `key: value` lines.")
    return tree


def parse_included(file: Path, node: Any) -> tuple[Path, Mapping[str, Any]]:
    """The file that an ``!include:`` node of another file names, and its content, to be read only.

    It is parsed once as long as it stays what it is: several checks look at it.
    """
    included = file.parent / tag_of(node).removeprefix(INCLUDE)
    stat = included.stat() if included.is_file() else None
    return included, _parse_once(included, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=16)
def _parse_once(file: Path, stamp: tuple[int, int] | None) -> Mapping[str, Any]:
    return parse_yaml(file)


def yaml_problem(error: YAMLError) -> str:
    """What the parser complains about, without its places and its advice."""
    said = [getattr(error, part, None) for part in ("context", "problem")]
    return ", ".join(part for part in said if part) or str(error)


def place(file: Path, parent: Any, key: Any) -> str:
    """Where an entry of a mapping or list stands: ``file, line N,``; the file where it is new."""
    lines = getattr(getattr(parent, "lc", None), "data", None) or {}
    return f"{file}, line {lines[key][0] + 1}," if key in lines else str(file)


def is_record(file: Path) -> bool:
    """Whether a file is what a run leaves as its ``hyperparams.yaml``, all references resolved."""
    with file.open(encoding="utf-8") as stream:
        return file.name == "hyperparams.yaml" and stream.readline().startswith(GENERATED)


def readers_of(recipe: RecipeFile, key: str) -> set[str]:
    """The top-level keys whose values refer to a key."""
    entries = {**recipe.tree, **recipe.changes}.items()
    return {
        name for name, node in entries if any(key in _REFERENCE.findall(t) for t in _texts(node))
    }


def check_yaml(recipe: RecipeFile, overrides: Collection[str], known_keys: Collection[str]) -> None:
    """Check that all values are there and that everything is read by something.

    Args:
        recipe: what `read_recipe` read.
        overrides: top-level keys that the command line gives.
        known_keys: top-level keys that code reads by name.

    Raises:
        ConfigError: names the key, the file and the remedy.
    """
    file, tree = recipe.written_in, recipe.tree
    if is_record(file):
        return  # checked when the run began; nothing in it refers to anything now
    for key, value in {**tree, **recipe.changes}.items():
        if key not in overrides:
            _refuse_placeholders(recipe.file if key in recipe.changes else file, key, value)
    texts = [*_texts(tree), *_texts(recipe.changes)]
    read = {name for text in texts for name in _REFERENCE.findall(text)} | set(known_keys)
    for key in tree:
        if key not in read and not key.startswith("__"):
            hint = did_you_mean(key, read)
            raise ConfigError(
                f"Nothing reads the key '{key}' of {file}: no <{key}> refers to it, and the "
                f"recipe's code does not know it. Remove it or mend its name.{hint}"
            )
    for key, node in includes_of(tree):
        _check_include(file, key, node)


def tag_of(node: Any) -> str:
    """The tag of a node, such as ``!ref``; empty without one."""
    return getattr(getattr(node, "tag", None), "value", None) or ""


def children_of(node: Any) -> Iterator[tuple[Any, Any]]:
    """What a mapping or a list holds, with keys or positions."""
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


def _texts(node: Any) -> Iterator[str]:
    """All texts in a tree, tagged ones (`!ref <a>`) included."""
    value = getattr(node, "value", node)
    if isinstance(value, str):
        yield value
    for _, child in children_of(node):
        yield from _texts(child)


def _refuse_placeholders(file: Path, key: str, node: Any) -> None:
    if tag_of(node) == "!PLACEHOLDER":
        flag = key.split("[")[0]
        raise ConfigError(f"{file} needs a value for {key}: give --{flag}=VALUE.")
    for name, child in children_of(node):
        _refuse_placeholders(file, f"{key}[{name}]", child)


def includes_of(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The ``!include:`` nodes in a tree, by their names."""
    if tag_of(node).startswith(INCLUDE):
        yield name, node
    for key, child in children_of(node):
        yield from includes_of(child, f"{name}[{key}]" if name else str(key))


def _check_include(file: Path, key: str, node: Any) -> None:
    """Check the overrides that an `!include:` passes against the file it includes."""
    included, tree = parse_included(file, node)
    given = list(node) if isinstance(node, Mapping) else []
    for name in given:
        if name not in tree:
            raise ConfigError(
                f"'{key}' of {file} gives {included} a '{name}', a key that it does not have."
                f"{did_you_mean(name, tree)}"
            )
    for name, value in tree.items():
        if tag_of(value) == "!PLACEHOLDER" and name not in given:
            raise ConfigError(f"'{key}' of {file} must give {included} a value for '{name}'.")
    for name, inner in includes_of(tree):
        _check_include(included, name, inner)
