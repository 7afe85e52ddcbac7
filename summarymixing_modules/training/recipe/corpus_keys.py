"""Keys that come with a corpus: its options are keys, and flags, of every recipe that names it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import TaggedScalar

from summarymixing_modules.data.corpora import CorpusSpec, corpus_names, corpus_spec
from summarymixing_modules.data.shards.folder import ShardFolder
from summarymixing_modules.training.recipe.options import ConfigError
from summarymixing_modules.training.recipe.yaml_checks import (
    PLACEHOLDER,
    RecipeFile,
    is_record,
    readers_of,
    tag_of,
)

_FOLDER, _SHARDS = "data_folder", "shards"  # keys


def with_corpus(recipe: RecipeFile, arguments: Sequence[str]) -> RecipeFile:
    """A recipe with the options of its corpus as keys, if it has not written them itself.

    A corpus that knows its data folder by itself needs no ``data_folder``. Shards do not need it
    either, and tell of which corpus they are and with which options it was prepared.

    Args:
        recipe: what `read_recipe` read.
        arguments: the command line after the YAML file, which may name another corpus, or shards.

    Raises:
        InputError: there is no such corpus, or there are no such shards; or a flag is an option of
            other corpora only.
    """
    if is_record(recipe.file):
        return recipe
    if shards := _shards(recipe, arguments):
        return _with_shards(recipe, ShardFolder.read(Path(shards)), arguments)
    name = _argument(arguments, "corpus") or recipe.tree.get("corpus")
    if name is None:
        return recipe
    spec = corpus_spec(str(name))
    for flag in (argument.removeprefix("--").partition("=")[0] for argument in arguments):
        if flag not in recipe.tree:
            _refuse_foreign(flag, spec)
    needed = TaggedScalar("", None, PLACEHOLDER)
    more = {
        option: needed if option in spec.needed else _listed(default)
        for option, default in spec.flags.items()
        if option not in recipe.tree
    }
    if spec.folder_of is not None and tag_of(recipe.tree.get(_FOLDER)) == PLACEHOLDER:
        more[_FOLDER] = None
    return _with_more(recipe, str(name), more)


def _shards(recipe: RecipeFile, arguments: Sequence[str]) -> str | None:
    """The folder of shards that a recipe, which knows of such, is to read."""
    if _SHARDS not in recipe.tree:
        return None
    given = _argument(arguments, _SHARDS) or recipe.tree[_SHARDS]
    return None if given is None or given in ("null", "~") else str(given)


def _with_shards(recipe: RecipeFile, folder: ShardFolder, arguments: Sequence[str]) -> RecipeFile:
    if _argument(arguments, _FOLDER) not in (None, "null"):
        raise ConfigError(
            f"--{_FOLDER} and --{_SHARDS} say where the corpus is, both: give one of them."
        )
    spec = corpus_spec(folder.corpus)
    own = {name: value for name, value in folder.options.items() if name in spec.flags}
    return _with_more(recipe, folder.corpus, {"corpus": folder.corpus, **own, _FOLDER: None})


def _with_more(recipe: RecipeFile, corpus: str, more: dict[str, Any]) -> RecipeFile:
    """A recipe with keys that its corpus brings."""
    parts = {**recipe.parts, Path(f"--corpus={corpus}"): more} if more else recipe.parts
    return replace(recipe, tree={**recipe.tree, **more}, parts=parts)


def refuse_useless(
    recipe: RecipeFile, overrides: Mapping[str, str], known_keys: Collection[str]
) -> None:
    """Refuse flags for keys of the YAML file that only other corpora than the recipe's read.

    Args:
        recipe: what `with_corpus` made.
        overrides: the flags for its keys.
        known_keys: that code reads by name, whatever the corpus.

    Raises:
        ConfigError: names the corpora.
    """
    name = overrides.get("corpus") or recipe.tree.get("corpus")
    for flag in () if name is None else overrides.keys() - {*known_keys}:
        if not readers_of(recipe, flag):
            _refuse_foreign(flag, corpus_spec(str(name)))


def _refuse_foreign(flag: str, spec: CorpusSpec) -> None:
    owners = [name for name in corpus_names() if flag in corpus_spec(name).options]
    if owners and flag not in spec.options:
        taken = f" ({spec.name} takes --{', --'.join(spec.options)})" if spec.options else ""
        raise ConfigError(
            f"--{flag} means nothing to --corpus={spec.name}, only to {', '.join(owners)}: leave "
            f"it out{taken}."
        )


def _listed(default: Any) -> Any:
    """A default as YAML has it."""
    return list(default) if isinstance(default, tuple) else default


def _argument(arguments: Sequence[str], name: str) -> str | None:
    """The value of a flag of a command line that has not been checked yet."""
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == f"--{name}":
            return value if equals else next(iter(arguments[place + 1 : place + 2]), None)
    return None


def corpus_options(recipe: RecipeFile, overrides: Mapping[str, str]) -> frozenset[str]:
    """The keys that corpora read by name: the recipe's, and those that it has another in place of.

    With ``--corpus``, or a base that has another one, keys stay in the file that are of no use; but
    no flag may be of none.

    Raises:
        InputError: there is no such corpus.
    """
    written = [str(part["corpus"]) for part in recipe.parts.values() if "corpus" in part]
    chosen = overrides.get("corpus", recipe.tree.get("corpus"))
    replaced = {option for name in written for option in corpus_spec(name).options}
    own = () if chosen is None else corpus_spec(str(chosen)).options
    return frozenset(own) | (replaced - overrides.keys())
