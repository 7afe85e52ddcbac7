"""Scores of a part of a test set say so, wherever they are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from summarymixing_modules.bundles.card import _figures
from summarymixing_modules.demo import describe
from summarymixing_modules.training.scores.test_sets import missing_utterances

PART = {"test_utterances": {"clean": 10, "other": 8}, "test_missing": {"clean": 0, "other": 2}}
TOLD = "test utterances that are not scored: 2 of 10 of other"


def test_what_is_missing_is_named() -> None:
    assert missing_utterances(PART) == TOLD
    assert missing_utterances({**PART, "test_missing": {"clean": 0}}) == ""
    assert missing_utterances({}) == ""


def test_cards_and_the_demo_say_so(tmp_path: Path) -> None:
    whole = {**PART, "metrics": {"test_wer": 5.0}, "intervals": {"test_wer": [4.5, 5.7]}}
    card = _figures(whole, "In percent.")
    assert TOLD in card and "| test_wer | 5 ± 0.6 |" in card
    result: dict[str, Any] = {
        **PART,
        "test_wer": 5.0,
        "intervals": {"test_wer": [4.5, 5.7]},
        "architecture": {"attention_type": "x"},
        "parameters": {"total": 1},
        "peak_memory_of": "process",
        **dict.fromkeys(("real_time_factor", "train_seconds", "peak_memory_mb"), 1),
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    text = describe(tmp_path)
    assert TOLD in text and "5.00 ± 0.6 %" in text
