"""Rows and columns that are alike, written once: ``for_each``.

    asr/{mixer}:
        for_each: {mixer: registered mixers}
        stages: ...

stands for one row for each mixer, with ``{mixer}`` replaced in names and values. Several variables
run over all combinations, the last one fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from summarymixing_modules.mixers import mixer_names
from summarymixing_modules.tables.schema import PLACEHOLDER, TableError

FOR_EACH = "for_each"
MIXERS = "registered mixers"


def expand(entries: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Replace every entry that has a ``for_each`` by the entries that it stands for.

    Args:
        entries: name to content.
        where: for messages.

    Raises:
        TableError: a malformed ``for_each``, or two entries of one name.
    """
    found: dict[str, Any] = {}
    for template, content in entries.items():
        for values in _combinations(content, f"{where} '{template}'"):
            name = _fill(template, values)
            if name in found:
                raise TableError(f"{where}: there are two '{name}'; a name says which is meant.")
            kept = content
            if isinstance(content, Mapping):
                kept = {key: value for key, value in content.items() if key != FOR_EACH}
            found[name] = _fill(kept, values)
    return found


def _combinations(content: Any, where: str) -> list[dict[str, str]]:
    loops = content.get(FOR_EACH) if isinstance(content, Mapping) else None
    if loops is None:
        return [{}]
    if not isinstance(loops, Mapping) or not loops:
        raise TableError(
            f"{where}: {FOR_EACH} must give names and lists, such as {{size: [1, 2]}}."
        )
    lists = [mixer_names() if values == MIXERS else values for values in loops.values()]
    for name, values in zip(loops, lists, strict=True):
        if not isinstance(values, list) or not values:
            raise TableError(f"{where}: {FOR_EACH} '{name}' must be a list or '{MIXERS}'.")
    combined = itertools.product(*lists)
    return [dict(zip(loops, map(str, values), strict=True)) for values in combined]


def _fill(node: Any, values: Mapping[str, str]) -> Any:
    """The node with ``{name}`` replaced; names that are no loop's stay."""
    if isinstance(node, str):
        return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), node)
    if isinstance(node, Mapping):
        return {_fill(key, values): _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, values) for value in node]
    return node
