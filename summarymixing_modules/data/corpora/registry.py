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
        options: names of its options.
        needed: those that have no default.
        source: paper.
        transcripts: (data folder, splits) → their transcripts, without looking at audio; None
            where they cannot be had so.
    """

    name: str
    prepare: Callable[..., Manifests]
    options: tuple[str, ...]
    needed: tuple[str, ...]
    source: str
    transcripts: Callable[[Path, Sequence[str]], list[str]] | None = None

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
) -> Callable[[_Prepare], _Prepare]:
    """Decorator that makes a preparation available as ``corpus: name``.

    Args:
        name: value of ``corpus``.
        source: paper.
        transcripts: see `CorpusSpec`.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(prepare: _Prepare) -> _Prepare:
        if name in _SPECS:
            raise ValueError(f"corpus {name!r} is registered already ({_SPECS[name]}).")
        parameters = inspect.signature(prepare).parameters.values()
        own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        options = tuple(p.name for p in own)
        needed = tuple(p.name for p in own if p.default is p.empty)
        _SPECS[name] = CorpusSpec(name, prepare, options, needed, source, transcripts)
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
