"""``train.py hparams/x.yaml --help``: the flags, as the recipe's YAML file comments them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from speechbrain.utils.run_opts import HELP_TEXTS

from summarymixing_modules.data.corpora import corpus_spec
from summarymixing_modules.training.recipe.options import FLAGS, RESUME_WITH_CHANGES, RUN_OPTIONS
from summarymixing_modules.training.recipe.yaml_checks import (
    FLAT_TAGS,
    PLACEHOLDER,
    RecipeFile,
    tag_of,
)

HELP = frozenset({"-h", "--help"})
_KEY_LINE = re.compile(r"(?P<key>[A-Za-z]\w*):(?P<value>[^#]*)(#\s*(?P<comment>.*))?$")
_WIDTH = 44  # of a flag and its value, before its comment
_RESUME = "True: go on with a run although settings differ that decide its result"


def describe_flags(recipe: RecipeFile) -> str:
    """The head of a recipe's file, its flags with values and comments, and the run options."""
    lines = [*_head(recipe.file), "", f"Flags of {recipe.file} and their values, for --key=value:"]
    lines += _flags(recipe)
    lines += _corpus_flags(recipe)
    lines += ["", "Flags of every recipe:", _line(RESUME_WITH_CHANGES, "False", _RESUME)]
    options = [key for key in RUN_OPTIONS if key in HELP_TEXTS and key not in recipe.tree]
    for key in options:
        value = None if key in FLAGS else str(RUN_OPTIONS[key])
        lines.append(_line(key, value, HELP_TEXTS[key]))
    return "\n".join(lines)


def _head(file: Path) -> list[str]:
    """The comment that a file begins with."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        found.append(line.removeprefix("#").removeprefix(" "))
    return found


def _flags(recipe: RecipeFile) -> Iterator[str]:
    """A line for every key that is a flag, the file's own first, under the comments above them."""
    listed: set[str] = set()
    files = [file for file in recipe.parts if file.is_file()]
    comments = {key: c for file in files for _, key, _, c in _keys_in(file) if c}
    for file in reversed(files):
        above = [] if file == recipe.file else ["", f"From {file.name}:"]
        for heading, key, value, _ in _keys_in(file):
            above += ["", *heading] if heading else []
            if key in listed or tag_of(recipe.tree.get(key)) not in FLAT_TAGS:
                continue
            listed.add(key)
            yield from above
            above = []
            yield _line(key, value, comments.get(key))


def _corpus_flags(recipe: RecipeFile) -> Iterator[str]:
    """A line for every option of a corpus that no file has written."""
    for file, options in recipe.parts.items():
        if file.is_file():
            continue
        spec = corpus_spec(file.name.partition("=")[2])
        yield from ("", f"From {file}:")
        for name, default in options.items():
            value = PLACEHOLDER if tag_of(default) == PLACEHOLDER else json.dumps(default)
            yield _line(name, value, spec.about(name))


def _keys_in(file: Path) -> Iterator[tuple[list[str], str, str, str | None]]:
    """The flat keys of a file: comment above it, key, value and comment beside it."""
    heading: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines()[len(_head(file)) :]:
        if line.startswith("# "):
            heading.append(line.removeprefix("# "))
            continue
        found = _KEY_LINE.match(line)
        if found is not None and found["value"].strip() and found["key"] != "base":
            yield heading, found["key"], found["value"].strip(), found["comment"]
        heading = []


def _line(key: str, value: str | None, comment: str | None) -> str:
    """A flag, its value (None: it takes none) and what it is about."""
    flag = f"  --{key}"
    if value is not None:
        flag += "=" + value.removeprefix("!ref ").replace(PLACEHOLDER, "(needed)")
    return f"{flag:<{_WIDTH}} {comment or ''}".rstrip()
