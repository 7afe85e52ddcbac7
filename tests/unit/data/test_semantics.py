"""Meanings as text: written, read back, and what is malformed."""

from __future__ import annotations

import pytest

from summarymixing_modules.data.text.semantics import (
    Entity,
    Semantics,
    parse_semantics,
    semantics_from,
)

ALARM = Semantics("alarm", "set", (Entity("time", "seven am"), Entity("date", "tomorrow")))
TEXT = (
    "{'scenario': 'alarm'| 'action': 'set'| 'entities': [{'type': 'time'| 'filler': 'seven am'}| "
    "{'type': 'date'| 'filler': 'tomorrow'}]}"
)


def test_text_has_the_form_of_speechbrains_recipes() -> None:
    assert ALARM.to_text() == TEXT
    assert ALARM.intent == "alarm_set"


@pytest.mark.parametrize(
    "meaning",
    [
        ALARM,
        Semantics("qa", "maths"),
        Semantics("weather", "query", (Entity("time", "seven o'clock"),)),
        Semantics("email", "query", (Entity("person", 'o\'neil "bob" \\ co'),)),
    ],
)
def test_what_is_written_can_be_read(meaning: Semantics) -> None:
    assert parse_semantics(meaning.to_text()) == meaning
    assert semantics_from(meaning.to_json()) == meaning


def test_commas_and_bars_in_fillers_become_spaces() -> None:
    meaning = Semantics("a", "b", (Entity("place", "paris, france | europe"),))
    read = parse_semantics(meaning.to_text())
    assert read is not None and read.entities == (Entity("place", "paris france europe"),)


@pytest.mark.parametrize(
    "text",
    [
        f"  {TEXT} ",
        TEXT.replace(" ", "  "),
        TEXT.replace("': '", "':'"),
        "{'entities':[{'filler':'seven am'|'type':'time'}|{'type':'date'|'filler':'Tomorrow'}]|"
        "'action':'set'|'scenario':'alarm'}",
    ],
)
def test_spacing_order_and_case_of_fillers_do_not_matter(text: str) -> None:
    assert parse_semantics(text) == ALARM


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT[:40],
        "set an alarm",
        "{'scenario': 'alarm'| 'action': 'set'}",
        "{'scenario': 'alarm'| 'action': 'set'| 'entities': 'none'}",
        "{'scenario': 'alarm'| 'action': 'set'| 'entities': ['time']}",
        "{'scenario': 'alarm'| 'action': 'set'| 'entities': [{'type': 'time'}]}",
        "{'scenario': 'alarm'| 'action': 'set'| 'entities': [{'type': 'a'| 'filler': ''}]}",
        "{'scenario': ''| 'action': 'set'| 'entities': []}",
        "{'scenario': alarm| 'action': 'set'| 'entities': []}",
        "{'scenario': 3| 'action': 'set'| 'entities': []}",
        "{'scenario': 'alarm'| 'action': 'set'| 'entities': []| 'more': 'x'}",
        "{'scenario': 'alarm'| 'scenario': 'qa'| 'action': 'set'| 'entities': []}",
        "{**{}| 'scenario': 'alarm'| 'action': 'set'| 'entities': []}",
        "{" * 5000,
        "__import__('os').getcwd()",
        "['alarm'| 'set']",
    ],
)
def test_malformed_text(text: str) -> None:
    assert parse_semantics(text) is None
