"""Which keys of a YAML file a recipe's code reads by name, found by reading that code.

Starting from train.py, in it, in the bases of its Brain and in everything of the package that is
handed ``hparams`` or the ``brain``, these are reads of the key ``x``:

    hparams["x"]    hparams.get("x")    "x" in hparams    self.hparams.x    self.option("x")
    getattr(self.hparams, "x", default)

So is every text in a constant whose name ends in ``_KEYS`` or ``_keys``. Functions that are held in
a constant, such as a table of loaders, count as used where the constant is.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

_Definition: TypeAlias = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
_PACKAGE = __name__.partition(".")[0]
_HPARAMS, _HANDED_ON = ("hparams", "_hparams"), ("hparams", "brain")
_METHODS = frozenset(dir(dict))


def keys_read(script: str | Path) -> frozenset[str]:
    """The keys that a train.py reads by name, itself or in the code that it hands ``hparams`` to.

    Args:
        script: the file.
    """
    reader = _Reader()
    reader.read_all(_File.of(Path(script)))
    return frozenset(reader.keys)


def keys_needed(brain: type) -> frozenset[str]:
    """The keys that the class of a Brain itself reads as ``self.hparams.x``, which has no default.

    Args:
        brain: with a `compute_forward` of its own.
    """
    file = _File.of(Path(brain.compute_forward.__code__.co_filename))  # type: ignore[attr-defined]
    own = file.definitions.get(brain.__name__)
    return frozenset(
        node.attr
        for node in (() if own is None else ast.walk(own))
        if isinstance(node, ast.Attribute) and _is_hparams(node.value) and node.attr not in _METHODS
    )


class _File:
    """A source file: what it defines on its top level, and what it imports from this package."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.definitions: dict[str, _Definition] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.definitions |= {t.id: node for t in targets if isinstance(t, ast.Name)}
        for found in ast.walk(self.tree):
            if isinstance(found, ast.ImportFrom) and (found.module or "").startswith(_PACKAGE):
                for name in found.names:
                    self.imports[name.asname or name.name] = (str(found.module), name.name)

    @staticmethod
    @functools.cache
    def of(path: Path) -> _File:
        """A file, parsed once."""
        return _File(path)

    def find(self, name: str) -> tuple[_File, _Definition] | None:
        """Where a name is defined on the top level of a file; None if that is elsewhere."""
        if name in self.definitions:
            return self, self.definitions[name]
        if name not in self.imports:
            return None
        module, original = self.imports[name]
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            return None
        return _File.of(Path(spec.origin)).find(original)


class _Reader:
    """Goes from definition to definition and gathers keys."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._seen: set[int] = set()

    def read_all(self, file: _File) -> None:
        """Everything in a file."""
        self._read(file, file.tree)

    def _read(self, file: _File, root: ast.AST) -> None:
        for node in ast.walk(root):
            self.keys.update(_keys_in(node))
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    self._follow(file, base, always=True)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self._follow(file, node)

    def _follow(self, file: _File, name: ast.expr, always: bool = False) -> None:
        found = file.find(name.id) if isinstance(name, ast.Name) else None
        if found is None or id(found[1]) in self._seen:
            return
        if always or _is_list_of_keys(name) or _takes_hparams(found[1]):
            self._seen.add(id(found[1]))
            if _is_list_of_keys(name):
                self.keys.update(_texts(found[1]))
            self._read(*found)


def _keys_in(node: ast.AST) -> Iterator[str]:
    """The keys that one node reads."""
    match node:
        case ast.Subscript(value=held, slice=ast.Constant(value=str(key))) if _is_hparams(held):
            yield key
        case ast.Call(
            func=ast.Attribute(value=held, attr="get"), args=[ast.Constant(str(key)), *_]
        ):
            if _is_hparams(held):
                yield key
        case ast.Call(func=ast.Attribute(attr="option"), args=[ast.Constant(str(key)), *_]):
            yield key
        case ast.Call(func=ast.Name("getattr"), args=[held, ast.Constant(str(key)), *_]):
            if _is_hparams(held):
                yield key
        case ast.Compare(left=ast.Constant(str(key)), comparators=[held]) if _is_hparams(held):
            yield key
        case ast.Attribute(value=held, attr=key) if _is_hparams(held) and key not in _METHODS:
            yield key
        case ast.Assign(targets=[ast.Name(id=name)]) if name.endswith("_keys"):
            yield from _texts(node)
        case ast.AnnAssign(target=ast.Name(id=name)) if name.endswith("_keys"):
            yield from _texts(node)


def _is_hparams(node: ast.expr) -> bool:
    """``hparams``, ``self.hparams``, ``recipe.hparams`` and the like."""
    return (isinstance(node, ast.Name) and node.id in _HPARAMS) or (
        isinstance(node, ast.Attribute) and node.attr in _HPARAMS
    )


def _is_list_of_keys(name: ast.expr) -> bool:
    return isinstance(name, ast.Name) and name.id.endswith("_KEYS")


def _takes_hparams(definition: _Definition) -> bool:
    """A constant, which may hold such functions, or what is handed ``hparams`` or a Brain."""
    return isinstance(definition, ast.Assign | ast.AnnAssign) or any(
        isinstance(node, ast.arg) and node.arg in _HANDED_ON for node in ast.walk(definition)
    )


def _texts(node: ast.AST) -> set[str]:
    return {
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }
