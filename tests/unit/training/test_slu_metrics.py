"""SLURP's scores, against cases worked out by hand."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from summarymixing_modules.data.corpora.slurp import read_split
from summarymixing_modules.data.text.semantics import (
    Entity,
    Semantics,
    parse_semantics,
    semantics_from,
)
from summarymixing_modules.training.scores.slu_metrics import (
    Counts,
    SLUScores,
    char_distance,
    exact_counts,
    partial_counts,
    word_distance,
)


def test_word_distance_is_the_word_error_rate() -> None:
    assert word_distance("seven am", "seven am") == 0
    assert word_distance("eight am", "seven am") == 1 / 2  # one substitution, two words
    assert word_distance("am", "seven am") == 1 / 2  # one deletion
    assert word_distance("one two three", "one") == 2  # two insertions, one word: above 1


def test_char_distance_is_by_the_longer_filler() -> None:
    assert char_distance("monday", "monday") == 0
    assert char_distance("sunday", "monday") == 2 / 6  # s→m, u→o
    assert char_distance("mon", "monday") == 3 / 6  # three deletions
    assert char_distance("monday", "mon") == 3 / 6  # three insertions; not 3 / 3
    assert char_distance("abc", "xyz") == 1


def test_a_filler_that_is_half_right() -> None:
    """d = 1/2 by words: one true positive, and half a false one on either side.

    F1 = 2 · 1 / (2 · 1 + 0.5 + 0.5) = 2/3.
    """
    found, wanted = [Entity("time", "eight am")], [Entity("time", "seven am")]
    counts = partial_counts(found, wanted, word_distance)
    assert counts == Counts(1, 0.5, 0.5)
    assert counts.f1 == pytest.approx(200 / 3)
    assert counts.precision == counts.recall == pytest.approx(100 / 1.5)


def test_another_type_is_one_false_positive_and_one_false_negative() -> None:
    found, wanted = [Entity("date", "monday")], [Entity("time", "monday")]
    assert partial_counts(found, wanted, word_distance) == Counts(0, 1, 1)
    assert exact_counts(found, wanted) == Counts(0, 1, 1)


def test_the_nearer_filler_of_a_type_is_the_partner() -> None:
    """ "friday" is 1/1 from "monday" and 1/2 from "next friday", which it is paired with.

    TP = 1, FP = 0.5, FN = 0.5 and 1 for "monday": F1 = 2 / (2 + 0.5 + 1.5) = 1/2.
    """
    wanted = [Entity("date", "monday"), Entity("date", "next friday")]
    counts = partial_counts([Entity("date", "friday")], wanted, word_distance)
    assert counts == Counts(1, 0.5, 1.5)
    assert counts.f1 == 50


def test_pairs_are_made_in_the_order_of_the_prediction_as_slurps_script_does() -> None:
    """The first takes the nearest and leaves 0.9 to the second; crossed, it would be 0.2 + 0.2."""
    table = {("p", "g"): 0.1, ("p", "h"): 0.2, ("q", "g"): 0.2, ("q", "h"): 0.9}

    def counts(first: str, second: str) -> Counts:
        found, wanted = ([Entity("t", f) for f in pair] for pair in ((first, second), "gh"))
        return partial_counts(found, wanted, lambda said, meant: table[said, meant])

    assert counts("p", "q") == Counts(2, 1.0, 1.0)
    assert counts("q", "p") == Counts(2, 0.4, 0.4)


def test_entities_said_twice_count_twice() -> None:
    twice = [Entity("food", "pizza")] * 2
    assert exact_counts(twice, twice) == Counts(2, 0, 0)
    assert exact_counts(twice, twice[:1]) == Counts(1, 1, 0)
    assert partial_counts(twice[:1], twice, word_distance) == Counts(1, 0, 1)


def test_no_entities_on_either_side_are_all_right() -> None:
    assert Counts().f1 == 100
    assert Counts(0, 1, 0).f1 == 0 and Counts(0, 0, 1).precision == 0


def test_slu_f1_sums_the_counts_of_words_and_characters() -> None:
    """Two utterances.

    1. "eight am" for "seven am". Words: d = 1/2. Characters: "eight" takes five edits from
       "seven", d = 5/8. An exact match there is none: FP = FN = 1.
    2. The date is right, the place was not found: TP = 1, FN = 1 in all three.

        words       TP = 2  FP = 0.5    FN = 1.5    F1 = 4 / 6
        characters  TP = 2  FP = 0.625  FN = 1.625  F1 = 4 / 6.25
        SLU         TP = 4  FP = 1.125  FN = 3.125  F1 = 8 / 12.25
        exact       TP = 1  FP = 1      FN = 2      F1 = 2 / 5

    Scenario is right twice; action, and so the intent, once.
    """
    scores = SLUScores()
    scores.append(
        Semantics("alarm", "set", (Entity("time", "eight am"),)),
        Semantics("alarm", "query", (Entity("time", "seven am"),)),
    )
    scores.append(
        Semantics("weather", "query", (Entity("date", "today"),)),
        Semantics("weather", "query", (Entity("place", "rome"), Entity("date", "today"))),
    )
    summary = scores.summarise()
    assert summary["word_f1"] == pytest.approx(100 * 4 / 6)
    assert summary["char_f1"] == pytest.approx(100 * 4 / 6.25)
    assert summary["slu_f1"] == pytest.approx(100 * 8 / 12.25)
    assert summary["slu_precision"] == pytest.approx(100 * 4 / 5.125)
    assert summary["slu_recall"] == pytest.approx(100 * 4 / 7.125)
    assert summary["entity_f1"] == pytest.approx(100 * 2 / 5)
    assert summary["scenario_acc"] == 100
    assert summary["action_acc"] == summary["intent_acc"] == 50
    assert summary["malformed"] == 0


def test_a_malformed_answer_has_nothing_right() -> None:
    scores = SLUScores()
    scores.append(None, Semantics("alarm", "set", (Entity("time", "noon"), Entity("date", "may"))))
    assert scores.malformed == 1 and scores.slu == Counts(0, 0, 4)
    summary = scores.summarise()
    assert summary.pop("malformed") == 100 and set(summary.values()) == {0.0}


def test_perfect_answers_on_slurps_own_test_set(slurp_test_file: Path) -> None:
    listing = read_split(slurp_test_file, slurp_test_file.parent)
    assert not listing.bad and len(listing.utterances) == 13078
    meanings = {u.annotation["slurp_id"]: semantics_from(u.annotation) for u in listing.utterances}
    scores = SLUScores()
    for meaning in meanings.values():
        scores.append(parse_semantics(meaning.to_text()), meaning)
    summary = scores.summarise()
    assert scores.utterances == 2974 and summary.pop("malformed") == 0
    assert set(summary.values()) == {100.0}


@pytest.fixture
def slurp_test_file(tmp_path: Path) -> Path:
    """The annotations of SLURP's test set, where they are."""
    checkout = Path(__file__).resolve().parents[3]
    data = Path(os.environ.get("SUMMARYMIXING_SPEECH_DATA", checkout.parent / "shared" / "data"))
    packed = data / "slurp_text" / "test.jsonl.gz"
    if not packed.is_file():
        pytest.skip(f"no SLURP annotations in {data} (set SUMMARYMIXING_SPEECH_DATA)")
    (tmp_path / "test.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))
    return tmp_path / "test.jsonl"
