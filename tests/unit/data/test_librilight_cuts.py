"""Cutting by voice activity: limits are kept, no voice is lost, nothing could be joined further."""

from __future__ import annotations

import random

import pytest

from summarymixing_modules.data.corpora.librilight_cuts import CutSettings, Span, cut_by_voice
from summarymixing_modules.errors import InputError


def cut(voiced: list[Span], **changes: float) -> tuple[list[Span], list[Span]]:
    settings = {"shortest": 2.0, "longest": 10.0, "max_pause": 1.0, "sample_rate": 10} | changes
    cuts = cut_by_voice(voiced, CutSettings(**settings))  # type: ignore[arg-type]
    return cuts.utterances, cuts.too_short


def test_segments_are_joined_with_short_pauses_until_they_are_long_enough() -> None:
    assert cut([(5, 30), (35, 60), (70, 90)]) == ([(5, 90)], [])
    assert cut([(5, 30), (41, 60)]) == ([(5, 30)], [(41, 60)]), "a pause of 1.1 s ends it"
    assert cut([(0, 60), (65, 100), (103, 130)]) == ([(0, 100), (103, 130)], []), "10 s is the most"
    assert cut([(0, 60), (65, 101)]) == ([(0, 60), (65, 101)], [])


def test_a_segment_that_is_too_long_is_split_into_equal_parts() -> None:
    assert cut([(0, 100)]) == ([(0, 100)], [])
    assert cut([(7, 108)]) == ([(7, 57), (57, 108)], [])
    assert cut([(0, 30), (32, 242), (250, 270)]) == (
        [(0, 30), (32, 102), (102, 172), (172, 270)],
        [],
    )


@pytest.mark.parametrize("voiced", [[], [(3, 20)]])
def test_short_pieces_are_left_out_and_told(voiced: list[Span]) -> None:
    assert cut(voiced) == ([], voiced)


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_and_nothing_could_be_joined_further(seed: int) -> None:
    draw = random.Random(seed)
    edges = sorted(draw.sample(range(20_000), 400))
    voiced = list(zip(edges[::2], edges[1::2], strict=True))
    kept, short = cut(voiced, longest=draw.choice([4.0, 30.0]), max_pause=draw.choice([0.0, 6.0]))
    pieces = sorted(kept + short)
    longest = 40 if max(stop - start for start, stop in pieces) <= 40 else 300
    assert all(0 < stop - start <= longest for start, stop in pieces)
    assert all(stop - start >= 20 for start, stop in kept)
    assert all(stop - start < 20 for start, stop in short)
    assert all(a[1] <= b[0] for a, b in zip(pieces, pieces[1:], strict=False))
    covered = {sample for span in pieces for sample in range(*span)}
    assert covered >= {sample for span in voiced for sample in range(*span)}
    assert {start for start, _ in pieces} | {stop for _, stop in pieces} <= {
        *edges,
        *(stop for _, stop in pieces[:-1]),
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shortest": 10.0}, "--avoid_if_shorter_than 10.0 --avoid_if_longer_than 10.0"),
        ({"longest": float("inf")}, "both numbers of seconds"),
        ({"shortest": -1.0}, "--avoid_if_shorter_than -1.0"),
        ({"max_pause": -0.1}, "--max_pause -0.1: use seconds of silence"),
        ({"max_pause": float("nan")}, "--max_pause nan"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, float], told: str) -> None:
    with pytest.raises(InputError, match=told):
        cut([], **changes)
