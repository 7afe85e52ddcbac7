"""A recipe's YAML file, and what can be wrong with it, found before anything in it is built.

A file says with ``base`` what it is made of: other YAML files, whose keys it has as if they were
written in it. A key that it writes itself wins over theirs, and of several bases the later one
wins. A base is looked for beside the file, then in the ``hparams`` folder of every folder above it,
and last in that of this repository.

HyperPyYAML reports little: a key that nothing reads does nothing and says nothing.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.reader import ReaderError

from summarymixing_modules.errors import did_you_mean
from summarymixing_modules.repository import REPOSITORY
from summarymixing_modules.training.recipe.options import ConfigError

_REFERENCE = re.compile(r"<([^<>\[\].]+)")  # the first name in <name>, <name[sub]>, <name.attr>
_INCLUDE = "!include:"
_ANY_WIDTH = 1 << 20  # a line is not to be wrapped
_BASE, _SHARED = "base", "hparams"
GENERATED = "# Generated "  # the first line of a run's record, as SpeechBrain writes it
PLACEHOLDER = "!PLACEHOLDER"  # of a value that must be given
FLAT_TAGS = ("", "!ref", PLACEHOLDER)  # of values that a flag may change


@dataclass(frozen=True)
class RecipeFile:
    """A recipe's YAML file with its bases.

    Attributes:
        file: the file that was asked for.
        tree: all keys, those of the bases first.
        parts: what each file has written, bases first, ``file`` last.
    """

    file: Path
    tree: dict[str, Any]
    parts: dict[Path, dict[str, Any]]

    def text(self) -> str:
        """All of it as one YAML file."""
        stream = io.StringIO()
        yaml = YAML()
        yaml.width = _ANY_WIDTH
        yaml.dump(dict(self.tree), stream)
        return stream.getvalue()

    def written_in(self, key: str) -> Path:
        """The file whose value a key has."""
        return next(file for file, part in reversed(self.parts.items()) if key in part)

    def missing(self, given: Collection[str]) -> tuple[str, ...]:
        """Keys that need a value and are not given one."""
        found = (key for key, node in self.tree.items() if tag_of(node) == PLACEHOLDER)
        return tuple(key for key in found if key not in given)

    def place(self, key: str) -> str:
        """Where the value of a key stands: ``file, line N,``."""
        file = self.written_in(key)
        return place(file, self.parts[file], key)


def read_recipe(file: Path) -> RecipeFile:
    """Read a recipe's YAML file and its bases; nothing is built.

    Raises:
        ConfigError: see `parse_yaml`; or there is no such base, or a file is its own base.
    """
    parts: dict[Path, dict[str, Any]] = {}
    tree: dict[str, Any] = {}
    for part_file, part in _parts(file, ()):
        parts.pop(part_file, None)  # it counts where it is named last
        parts[part_file] = part
        tree |= part
    return RecipeFile(file, tree, parts)


def _parts(file: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files that a file is made of and their keys, in the order in which they count."""
    if file.resolve() in above:
        names = " and ".join(path.name for path in above)
        raise ConfigError(f"'{_BASE}' of {names}: they are based on each other.")
    tree = parse_yaml(file)
    named = tree.pop(_BASE, [])
    for name in named if isinstance(named, list) else [named]:
        yield from _parts(_find(file, name), (*above, file.resolve()))
    for key, node in _nodes(tree):
        if tag_of(node).startswith(_INCLUDE):
            raise ConfigError(
                f"{place(file, tree, key)} includes a file ({tag_of(node)}). Name that file under "
                f"'{_BASE}:' instead: its keys are then keys of this recipe."
            )
    yield file, tree


def _find(file: Path, name: Any) -> Path:
    """The file that another one names as a base."""
    if not isinstance(name, str):
        raise ConfigError(f"'{_BASE}' of {file} must name YAML files, not {name}.")
    above = [*file.absolute().parents, REPOSITORY]
    folders = [file.parent, *(folder / _SHARED for folder in above)]
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found:
        there = [path.name for folder in folders for path in sorted(folder.glob("*.yaml"))]
        raise ConfigError(
            f"'{_BASE}' of {file} names {name}, which is neither beside it nor in a folder "
            f"{_SHARED} above it.{did_you_mean(name, there)}"
        )
    return found[0]


def parse_yaml(file: Path) -> dict[str, Any]:
    """Read one YAML file with its tags, building nothing.

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


def yaml_problem(error: YAMLError) -> str:
    """What the parser complains about, without its places and its advice."""
    said = [getattr(error, part, None) for part in ("context", "problem")]
    return ", ".join(part for part in said if part) or str(error)


def place(file: Path, parent: Any, key: Any) -> str:
    """Where an entry of a mapping or list stands: ``file, line N,``; the file where it is new."""
    lines = getattr(getattr(parent, "lc", None), "data", None) or {}
    return f"{file}, line {lines[key][0] + 1}," if key in lines else str(file)


def train_script(file: Path) -> Path:
    """Where the train.py of a recipe's YAML file is: beside its folder, if there is one.

    Links are taken as they are: a train.py, or a YAML file, may be a link to another recipe's.
    """
    return Path(os.path.abspath(file)).parent.parent / "train.py"


def is_record(file: Path) -> bool:
    """Whether a file is what a run leaves as its ``hyperparams.yaml``, all references resolved."""
    with file.open(encoding="utf-8") as stream:
        return file.name == "hyperparams.yaml" and stream.readline().startswith(GENERATED)


def readers_of(recipe: RecipeFile, key: str) -> set[str]:
    """The top-level keys whose values refer to a key."""
    return {
        name
        for name, node in recipe.tree.items()
        if any(key in _REFERENCE.findall(text) for text in _texts(node))
    }


def in_use(recipe: RecipeFile, given: Collection[str], known_keys: Collection[str]) -> RecipeFile:
    """A recipe without what it does not use of the pieces in this repository's ``hparams``.

    With a model of its own, say, it has no use for the encoder of a piece, nor for its sizes.

    Args:
        recipe: what `read_recipe` read.
        given: top-level keys that the command line gives; they stay.
        known_keys: top-level keys that code reads by name.
    """
    tree = dict(recipe.tree)
    pieces = [part for file, part in recipe.parts.items() if file.parent == REPOSITORY / _SHARED]
    while True:
        read = {name for text in _texts(tree) for name in _REFERENCE.findall(text)}
        unused = [
            key
            for key, node in tree.items()
            if key not in {*read, *given, *known_keys}
            and not key.startswith("__")
            and any(key in part and part[key] is node for part in pieces)
        ]
        if not unused:
            return replace(recipe, tree=tree)
        for key in unused:
            del tree[key]


def check_yaml(recipe: RecipeFile, overrides: Collection[str], known_keys: Collection[str]) -> None:
    """Check that all values are there and that everything is read by something.

    Args:
        recipe: what `read_recipe` read.
        overrides: top-level keys that the command line gives.
        known_keys: top-level keys that code reads by name.

    Raises:
        ConfigError: names the key, the file and the remedy.
    """
    if is_record(recipe.file):
        return  # checked when the run began; nothing in it refers to anything now
    for key, value in recipe.tree.items():
        if key not in overrides:
            _refuse_placeholders(recipe.file, key, value)
    read = {name for text in _texts(recipe.tree) for name in _REFERENCE.findall(text)}
    read |= set(known_keys)
    for key in recipe.tree:
        if key not in read and not key.startswith("__"):
            hint = did_you_mean(key, read)
            raise ConfigError(
                f"Nothing reads the key '{key}' ({recipe.place(key)[:-1]}): no <{key}> refers to "
                f"it, and the recipe's code does not know it. Remove it or mend its name.{hint}"
            )


def tag_of(node: Any) -> str:
    """The tag of a node, such as ``!ref``; empty without one."""
    return getattr(getattr(node, "tag", None), "value", None) or ""


def children_of(node: Any) -> Iterator[tuple[Any, Any]]:
    """What a mapping or a list holds, with keys or positions."""
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


def _nodes(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every node of a tree with the top-level key that it belongs to."""
    for key, top in tree.items():
        waiting = [top]
        while waiting:
            node = waiting.pop()
            yield key, node
            waiting += [child for _, child in children_of(node)]


def _texts(node: Any) -> Iterator[str]:
    """All texts in a tree, tagged ones (`!ref <a>`) included."""
    value = getattr(node, "value", node)
    if isinstance(value, str):
        yield value
    for _, child in children_of(node):
        yield from _texts(child)


def _refuse_placeholders(file: Path, key: str, node: Any) -> None:
    if tag_of(node) == PLACEHOLDER:
        flag = key.split("[")[0]
        raise ConfigError(f"{file} needs a value for {key}: give --{flag}=VALUE.")
    for name, child in children_of(node):
        _refuse_placeholders(file, f"{key}[{name}]", child)
