"""Error rates against SpeechBrain's, which are the reference."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from speechbrain.utils.metric_stats import ErrorRateStats

from summarymixing_modules.training.scores.error_rates import (
    DRAWS,
    SEED,
    ErrorRate,
    TranscriptScore,
    in_error_rate,
    split_words,
)

Pairs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Transcripts and references, among them silence and repeated words."""
    draw = random.Random(0)

    def text(least: int) -> str:
        words = (draw.choice(("A", "ON", "NO", "ÉTÉ")) for _ in range(draw.randint(least, 9)))
        return " ".join(words)

    return [("", "A ON"), ("A  ON", "A ON"), *((text(0), text(1)) for _ in range(150))]


def reference(pairs: Pairs, characters: bool) -> ErrorRateStats:
    stats, split = ErrorRateStats(), list if characters else split_words
    texts, wanted = ([split(text) for text in side] for side in zip(*pairs, strict=True))
    stats.append([f"u{n}" for n in range(len(pairs))], texts, wanted)
    return stats


def test_totals_are_speechbrains(pairs: Pairs) -> None:
    words, characters = ErrorRate(), ErrorRate()
    for text, wanted in pairs:
        words.append(split_words(text), split_words(wanted))
        characters.append(text, wanted)
    for rate, stats in ((words, reference(pairs, False)), (characters, reference(pairs, True))):
        summary = stats.summarize()
        assert (rate.edits, rate.tokens) == (summary["num_edits"], summary["num_scored_tokens"])
        assert rate.percent == pytest.approx(summary["error_rate"], rel=1e-12)
    assert math.isnan(ErrorRate().percent)


def test_intervals_are_those_of_plain_draws(pairs: Pairs) -> None:
    """In any order of the utterances; quantiles between two draws as numpy's default."""
    score = TranscriptScore()
    for text, wanted in pairs:
        score.append(["u"], [text], [wanted])
    counts, draw, rates = sorted(score.words.counts), np.random.default_rng(SEED), []
    for _ in range(DRAWS):
        drawn = [counts[i] for i in draw.integers(len(counts), size=len(counts))]
        rates.append(100 * sum(edits for edits, _ in drawn) / sum(tokens for _, tokens in drawn))
    rates.sort()
    want = [rates[i] + part * (rates[i + 1] - rates[i]) for i, part in ((24, 0.975), (974, 0.025))]
    assert score.words.interval() == pytest.approx(tuple(want), rel=1e-12)
    assert ErrorRate(score.words.counts[::-1]).interval() == score.words.interval()
    intervals = score.intervals()
    assert intervals == {"WER": score.words.interval(), "CER": score.characters.interval()}
    for name, rate in score.summarise().items():
        assert intervals[name][0] < rate < intervals[name][1]


def test_intervals_of_next_to_nothing() -> None:
    assert ErrorRate([(1, 4)]).interval() == (25.0, 25.0)
    assert all(map(math.isnan, ErrorRate().interval()))
    assert all(map(math.isnan, ErrorRate([(3, 0)]).interval()))
    # A draw can hold the empty reference alone: it does not count.
    assert all(map(math.isfinite, ErrorRate([(1, 0), (1, 4)]).interval()))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """120 test sets of 80 utterances, each with an error rate of its own of 10 % on average."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(120):
        tokens = draw.integers(5, 30, size=80)
        edits = draw.binomial(tokens, draw.beta(1, 9, size=80))
        low, high = ErrorRate(list(zip(edits, tokens, strict=True))).interval()
        held += low < 10 < high
    assert 0.88 < held / 120 <= 0.99


def test_the_alignments_of_a_test_are_speechbrains(pairs: Pairs, tmp_path: Path) -> None:
    """Their insertions, deletions and substitutions depend on how ties are broken."""
    score = TranscriptScore()
    for n, (text, wanted) in enumerate(pairs):
        score.append([f"u{n}"], [text], [wanted])
    score.write("x", tmp_path, single=True)
    with (tmp_path / "expected.txt").open("w", encoding="utf-8") as stream:
        reference(pairs, False).write_stats(stream)
    written = (tmp_path / "wer_x.txt").read_text(encoding="utf-8")
    assert written == (tmp_path / "expected.txt").read_text(encoding="utf-8")
    assert float(re.findall(r"%WER ([\d.]+)", written)[0]) == round(score.summarise()["WER"], 2)


def test_a_language_without_spaces_is_scored_by_characters(tmp_path: Path) -> None:
    score = TranscriptScore("CER")
    score.append(["a", "b"], ["你 好吗", "早"], ["你好", "早 上"])
    assert score.summarise() == {"CER": 50.0} and set(score.intervals()) == {"CER"}
    score.write("test", tmp_path, single=True)
    (report,) = tmp_path.iterdir()
    assert report.name == "cer_test.txt"
    assert "%WER 50.00 [ 2 / 4, 1 ins, 1 del, 0 sub ]" in report.read_text()


def test_names_of_scores_follow_the_error_rate() -> None:
    assert in_error_rate({"min_key": "WER"}, "CER") == {"min_key": "CER"}
    names = {"test_wer": "WER", "test_slu_f1": "slu_f1"}
    assert in_error_rate(names, "WER") == names
    assert in_error_rate(names, "CER") == {"test_cer": "CER", "test_slu_f1": "slu_f1"}
