"""What an utterance means in SLURP: a scenario, an action, and entities with their words.

As text, for models that write it token by token, it has the form of SpeechBrain's SLURP recipes: a
Python dict with ``|`` for every comma,

    {'scenario': 'alarm'| 'action': 'set'| 'entities': [{'type': 'time'| 'filler': 'seven am'}]}
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_COMMA = "|"


@dataclass(frozen=True)
class Entity:
    """A piece of information in an utterance.

    Attributes:
        type: what it is, such as "time".
        filler: the words that say it, in lower case.
    """

    type: str
    filler: str


@dataclass(frozen=True)
class Semantics:
    """The meaning of an utterance.

    Attributes:
        scenario: what it is about, such as "alarm".
        action: what is to be done, such as "set".
        entities: in the order of the words.
    """

    scenario: str
    action: str
    entities: tuple[Entity, ...] = ()

    @property
    def intent(self) -> str:
        """Scenario and action as one label; SLURP's own field ``intent`` is not always that."""
        return f"{self.scenario}_{self.action}"

    def to_text(self) -> str:
        """The text that a model writes; commas and bars in fillers become spaces."""
        entities = [{"type": e.type, "filler": _plain(e.filler)} for e in self.entities]
        meaning = {"scenario": self.scenario, "action": self.action, "entities": entities}
        return str(meaning).replace(",", _COMMA)

    def to_json(self) -> dict[str, Any]:
        """As in a line of SLURP's predictions.jsonl."""
        entities = [{"type": e.type, "filler": e.filler} for e in self.entities]
        return {"scenario": self.scenario, "action": self.action, "entities": entities}


def semantics_from(record: Mapping[str, Any]) -> Semantics:
    """The meaning in a mapping of the form of `Semantics.to_json`; other keys do not matter.

    Raises:
        ValueError: a part is missing or of another type.
    """
    entities = record.get("entities")
    if not isinstance(entities, list):
        raise ValueError("'entities' is not a list")
    return Semantics(_text(record, "scenario"), _text(record, "action"), tuple(_entities(entities)))


def parse_semantics(text: str) -> Semantics | None:
    """The meaning in a text that a model has written; None if the text is malformed.

    Spacing and the order of the keys do not matter. Anything else that is not as `to_text` writes
    it does: an unfinished text, a key that is missing, unknown or there twice, a value that is not
    a text in quotes. What was meant by such a text is not guessed.
    """
    try:
        tree = ast.parse(text.strip().replace(_COMMA, ","), mode="eval")
        if any(isinstance(node, ast.Dict) and _repeats(node) for node in ast.walk(tree)):
            return None
        record = ast.literal_eval(tree)
        _exactly(record, {"scenario", "action", "entities"})
        meaning = semantics_from(record)
        for entity in record["entities"]:
            _exactly(entity, {"type", "filler"})
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return meaning


def _plain(filler: str) -> str:
    return " ".join(filler.replace(",", " ").replace(_COMMA, " ").split())


def _repeats(node: ast.Dict) -> bool:
    keys = [ast.dump(key) for key in node.keys if key is not None]
    return len(set(keys)) < len(node.keys)


def _exactly(record: object, keys: set[str]) -> None:
    if not isinstance(record, dict) or set(record) != keys:
        raise ValueError(f"not a mapping of {', '.join(sorted(keys))}")


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} is not a text")
    return " ".join(value.split())


def _entities(records: Iterable[Any]) -> Iterable[Entity]:
    for record in records:
        if not isinstance(record, Mapping):
            raise ValueError("an entity is not a mapping")
        yield Entity(_text(record, "type"), _text(record, "filler").lower())
