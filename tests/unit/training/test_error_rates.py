"""Error rates against SpeechBrain's, which are the reference."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest
from speechbrain.utils.metric_stats import ErrorRateStats

from summarymixing_modules.training.scores.error_rates import (
    ErrorRate,
    TranscriptScore,
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
