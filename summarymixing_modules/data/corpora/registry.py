"""The one place where the value of ``corpus`` becomes a corpus.

A corpus of one's own needs one decorated function and no change here::

    @register_corpus("mine", source="my paper")
    def prepare_mine(preparation: Preparation, *, rooms: int = 3) -> Manifests:
        ...

It lists what its folder holds, and `Preparation.prepare` examines it and writes manifests. Its
keyword-only arguments are the corpus's options: keys of recipes of the same name, needed if they
have no default. A package that declares the entry point group ``summarymixing_modules.corpora`` is
imported when an unknown name is asked for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.errors import InputError, near_name

ENTRY_POINT_GROUP = "summarymixing_modules.corpora"

#: (preparation, **options) → manifests
_Prepare = TypeVar("_Prepare", bound=Callable[..., Manifests])


@dataclass(frozen=True)
class CorpusSpec:
    """A registered corpus.

    Attributes:
        name: value of ``corpus``.
        prepare: (preparation, **options) → manifests.
        options: its options and their defaults.
        needed: those that have no default.
        source: paper.
        transcripts: (data folder, splits) → their transcripts, without looking at audio; None
            where they cannot be had so.
        folder_of: option that names a file in the data folder, which then need not be given.
        of_recipes: options that are keys of some recipes anyway, and no flags of the others; where
            a corpus comes in shards, these may have other values than when it was prepared.
        error_rate: by which papers score it, "WER" (words) or "CER" (characters).
    """

    name: str
    prepare: Callable[..., Manifests]
    options: Mapping[str, Any]
    needed: tuple[str, ...]
    source: str
    transcripts: Callable[[Path, Sequence[str]], list[str]] | None = None
    folder_of: str | None = None
    of_recipes: tuple[str, ...] = ()
    error_rate: str = "WER"

    @property
    def flags(self) -> dict[str, Any]:
        """The options that are flags of any recipe of this corpus, and their defaults."""
        return {name: value for name, value in self.options.items() if name not in self.of_recipes}

    def about(self, option: str) -> str:
        """What the docstring says of an option, up to the end of its first line."""
        found = re.search(rf"^ +{option}: (.+)$", self.prepare.__doc__ or "", re.MULTILINE)
        return found[1] if found else ""

    def options_in(self, hparams: Mapping[str, Any]) -> dict[str, Any]:
        """The corpus's options among the keys of a recipe.

        Raises:
            InputError: one that it needs is missing; names it.
        """
        if missing := [name for name in self.needed if name not in hparams]:
            raise InputError(
                f"the YAML file lacks {', '.join(missing)}, which --corpus={self.name} needs: add "
                "it, or use a recipe of that corpus"
            )
        return {name: hparams[name] for name in self.options if name in hparams}


_SPECS: dict[str, CorpusSpec] = {}


def register_corpus(
    name: str,
    source: str,
    transcripts: Callable[[Path, Sequence[str]], list[str]] | None = None,
    folder_of: str | None = None,
    of_recipes: tuple[str, ...] = (),
    error_rate: str = "WER",
) -> Callable[[_Prepare], _Prepare]:
    """Decorator that makes a preparation available as ``corpus: name``.

    Args:
        name: value of ``corpus``.
        source: paper.
        transcripts: see `CorpusSpec`.
        folder_of: likewise.
        of_recipes: likewise.
        error_rate: likewise.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(prepare: _Prepare) -> _Prepare:
        if name in _SPECS:
            raise ValueError(f"corpus {name!r} is registered already ({_SPECS[name]}).")
        parameters = inspect.signature(prepare).parameters.values()
        own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        options = {p.name: None if p.default is p.empty else p.default for p in own}
        needed = tuple(p.name for p in own if p.default is p.empty)
        more = (transcripts, folder_of, of_recipes, error_rate)
        _SPECS[name] = CorpusSpec(name, prepare, options, needed, source, *more)
        return prepare

    return decorate


def unregister_corpus(name: str) -> None:
    """Forgets a corpus, so that a notebook can register its own a second time."""
    _SPECS.pop(name, None)


def corpus_names() -> list[str]:
    """Every known value of ``corpus``, in the order of registration."""
    return list(_SPECS)


def corpus_spec(name: str) -> CorpusSpec:
    """The spec of a corpus.

    Raises:
        InputError: unknown name; the message lists the known ones.
    """
    if name not in _SPECS:
        for point in entry_points(group=ENTRY_POINT_GROUP):
            point.load()
    if name not in _SPECS:
        raise InputError(
            f"--corpus={name}: there is no such corpus{near_name(name, _SPECS)}. "
            f"Known: {', '.join(_SPECS)}."
        )
    return _SPECS[name]
