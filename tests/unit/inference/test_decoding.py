"""Tokens, words and their times; writers."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.inference.decoding import (
    Token,
    Transcript,
    Word,
    align_ctc,
    best_path,
    words_of,
)
from summarymixing_modules.inference.writers import WRITERS, as_ctm, as_json, as_srt, as_text

CHARACTERS = CharTokenizer("AB ")  # " " is 1, A 2, B 3


class Pieces(CharTokenizer):
    """Stands for a SentencePiece model."""

    def pieces(self) -> list[str]:
        return ["", "\u2581A", "B", "\u2581", "\u2581BA"]


def spans(tokens: list[Token]) -> list[tuple[int, int, int]]:
    return [(token.index, token.start, token.stop) for token in tokens]


def test_best_path_collapses_and_times() -> None:
    frames = [0, 2, 2, 0, 2, 3, 3, 3, 0, 0]
    log_probs_TV = torch.full((len(frames), 4), 0.05)
    log_probs_TV[range(len(frames)), frames] = 0.85
    log_probs_TV[5, 3], log_probs_TV[5, 0] = 0.55, 0.35
    tokens = best_path(log_probs_TV.log())
    assert spans(tokens) == [(2, 1, 3), (2, 4, 5), (3, 5, 8)]
    expected = [0.85, 0.85, 0.75]
    assert [token.confidence for token in tokens] == pytest.approx(expected)
    assert best_path(torch.zeros(0, 4)) == []


@pytest.fixture(params=["torchaudio", "plain"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torchaudio's compiled alignment, and as where it has none."""
    if request.param == "plain":
        monkeypatch.setattr(torch.ops, "torchaudio", object())
    elif not hasattr(torch.ops.torchaudio, "forced_align"):
        pytest.skip("torchaudio has no compiled library here")


@pytest.mark.usefixtures("either_way")
def test_alignment_equals_the_best_of_all_paths() -> None:
    torch.manual_seed(0)
    for tokens in ([1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 1]):
        scores_TV = torch.randn(6, 3).log_softmax(-1)

        def collapsed(path: tuple[int, ...]) -> list[int]:
            return [label for label, _ in itertools.groupby(path) if label]

        paths = (p for p in itertools.product(range(3), repeat=6) if collapsed(p) == tokens)  # noqa: B023
        best = max(paths, key=lambda p: float(scores_TV[range(6), list(p)].sum()))  # noqa: B023
        groups = [
            (label, [t for t, _ in group])
            for label, group in itertools.groupby(enumerate(best), key=lambda pair: pair[1])
        ]
        expected = [(label, ts[0], ts[-1] + 1) for label, ts in groups if label]
        found = align_ctc(scores_TV, tokens)
        assert spans(found) == expected
        means = [
            float(scores_TV[token.start : token.stop, token.index].exp().mean()) for token in found
        ]
        assert [token.confidence for token in found] == pytest.approx(means)


def test_torchaudios_alignment_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.ops.torchaudio, "forced_align"):
        pytest.skip("torchaudio has no compiled library here")
    torch.manual_seed(0)
    for frames, length in ((1, 1), (120, 40), (200, 90)):
        scores_TV = torch.randn(frames, 30).log_softmax(-1)
        tokens = torch.randint(1, 5, (length,)).tolist()  # few kinds, many repeated
        found = align_ctc(scores_TV, tokens)
        with monkeypatch.context() as patch:
            patch.setattr(torch.ops, "torchaudio", object())
            assert spans(found) == spans(align_ctc(scores_TV, tokens))
        assert [token.index for token in found] == tokens


def test_alignment_of_nothing_and_of_too_much() -> None:
    scores_TV = torch.randn(4, 3).log_softmax(-1)
    assert align_ctc(scores_TV, []) == []
    assert spans(align_ctc(scores_TV, [1, 1, 1])) == [(1, 0, 1), (1, 1, 3), (1, 3, 4)]


def test_words_of_characters_and_of_pieces() -> None:
    tokens = [Token(i, t, t + 1, 0.5) for t, i in enumerate([1, 2, 3, 1, 1, 3, 1])]
    words = words_of(tokens, CHARACTERS, 0.04, 10.0, 0.2)
    assert [word.text for word in words] == ["AB", "B"]
    assert words[1].end == pytest.approx(10.2)  # the end of the audio
    assert words[0].start == pytest.approx(10.04) and words[0].end == pytest.approx(10.12)
    tokens = [
        Token(i, t, t + 1, c) for t, (i, c) in enumerate([(1, 0.2), (2, 0.4), (3, None), (4, None)])
    ]
    words = words_of(tokens, Pieces(), 1.0, 0.0, 9.0)
    assert [(word.text, word.start, word.end) for word in words] == [("AB", 0, 2), ("BA", 3, 4)]
    assert words[0].confidence == pytest.approx(0.3) and words[1].confidence is None


@pytest.fixture
def transcript() -> Transcript:
    texts = [f"WORD{n}" for n in range(20)]
    words = [Word(text, n * 0.5, n * 0.5 + 0.4, 0.9) for n, text in enumerate(texts)]
    words.append(Word("LATE", 3700.0, 3700.5, None))
    text = " ".join(word.text for word in words)
    return Transcript(Path("a b/my talk.mp3"), 3700.5, text, words)


def test_text_and_json(transcript: Transcript) -> None:
    assert as_text(transcript) == transcript.text + "\n"
    line = as_json(transcript)
    found = json.loads(line)
    assert line.count("\n") == 1 and found["file"] == "a b/my talk.mp3"
    assert found["words"][1] == {"word": "WORD1", "start": 0.5, "end": 0.9, "confidence": 0.9}


def test_ctm(transcript: Transcript) -> None:
    lines = as_ctm(transcript).splitlines()
    assert lines[1] == "my_talk 1 0.500 0.400 WORD1 0.9000"
    assert lines[-1] == "my_talk 1 3700.000 0.500 LATE"


def test_srt(transcript: Transcript) -> None:
    text = as_srt(transcript)
    blocks = text.strip().split("\n\n")
    assert blocks[-1].splitlines() == ["3", "01:01:40,000 --> 01:01:40,500", "LATE"]
    times = [re.findall(r"\d\d:\d\d:\d\d,\d\d\d", block) for block in blocks]
    assert times[0][0] == "00:00:00,000"
    flat = [time for pair in times for time in pair]
    assert flat == sorted(flat)
    for block in blocks:
        lines = block.splitlines()[2:]
        assert 1 <= len(lines) <= 2 and all(len(line) <= 46 for line in lines)
    assert " ".join(" ".join(block.splitlines()[2:]) for block in blocks) == transcript.text


def test_silence_is_an_empty_file() -> None:
    nothing = Transcript(Path("x.wav"), 1.0, "", [])
    assert [write(nothing) for write in WRITERS.values()][2:] == ["", ""]
