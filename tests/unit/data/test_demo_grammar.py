"""The grammar: enough words, well-formed and distinct sentences, reproducible."""

from __future__ import annotations

import re

from summarymixing_modules.data.demo.grammar import (
    MAX_WORDS,
    MIN_WORDS,
    make_sentences,
)


def vocabulary() -> set[str]:
    """The words of many sentences."""
    return {word for sentence in make_sentences(20_000, seed=3) for word in sentence.text.split()}


def test_vocabulary_has_hundreds_of_words() -> None:
    assert len(vocabulary()) >= 400


def test_sentences_are_distinct_librispeech_style_and_short() -> None:
    sentences = make_sentences(1000, seed=5)
    assert len({sentence.text for sentence in sentences}) == 1000
    for sentence in sentences:
        assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", sentence.text)
        assert MIN_WORDS <= len(sentence.text.split()) <= MAX_WORDS
        assert sentence.spoken == sentence.text.lower() + sentence.mark
        assert not re.search(r"\bA [AEIOU]", sentence.text)


def test_many_kinds_of_sentences() -> None:
    sentences = make_sentences(500, seed=1)
    openings = {" ".join(sentence.text.split()[:2]) for sentence in sentences}
    assert len(openings) > 100
    assert {sentence.mark for sentence in sentences} >= {".", "?"}


def test_no_pair_of_words_that_sound_alike() -> None:
    words = vocabulary()
    alike = (
        *("TO TWO TOO", "THERE THEIR", "SEA SEE", "FOR FOUR", "ATE EIGHT", "BY BUY"),
        *("RIGHT WRITE", "KNEW NEW", "ONE WON", "HEAR HERE", "MEAT MEET", "NO KNOW"),
    )
    for group in alike:
        assert len(words & set(group.split())) <= 1, group


def test_seed_decides_and_longer_draws_extend_shorter_ones() -> None:
    assert make_sentences(50, seed=9) == make_sentences(80, seed=9)[:50]
    assert make_sentences(50, seed=9) != make_sentences(50, seed=10)
