"""Test sets: how much of them was scored, in what time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from speechbrain.utils.logger import get_logger

from summarymixing_modules.training.scores.score import Interval

logger = get_logger(__name__)


@dataclass
class Evaluated:
    """What an evaluation has computed.

    Attributes:
        utterances: how many.
        audio_seconds: their audio.
        seconds: of computing.
    """

    utterances: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, batch: Any, audio: Callable[[Any], tuple[float, float]], seconds: float) -> None:
        """Adds a batch.

        Args:
            batch: of utterances.
            audio: tells the seconds of audio in a batch, without and with its padding.
            seconds: of computing.
        """
        self.seconds += seconds
        if hasattr(batch, "__len__") and len(batch):  # not of every kind of data
            self.utterances += len(batch)
            self.audio_seconds += audio(batch)[0]


@dataclass
class TestSets:
    """How much of the test sets was scored, and how sure the scores are.

    Attributes:
        utterances: of each test set, how many were scored.
        missing: how many of its utterances were not: a file cannot be used, or ``--debug``.
        intervals: metric → its 95 % interval.
        seconds, audio_seconds: of computing, and of audio, over all sets.
    """

    __test__ = False  # nothing for pytest

    utterances: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    seconds: float = 0.0
    audio_seconds: float = 0.0

    def add(self, name: str, data: Any, evaluated: Evaluated) -> None:
        """Notes how much of a test set was scored.

        Args:
            name: of the set.
            data: with what preparation has left of it.
            evaluated: what was scored of it.
        """
        listed, scored = len(data) + getattr(data, "left_out", 0), evaluated.utterances
        self.utterances[name], self.missing[name] = scored, listed - scored
        self.seconds += evaluated.seconds
        self.audio_seconds += evaluated.audio_seconds
        if scored < listed:
            logger.warning(f"{name}: {listed - scored} of {listed} utterances are not scored")

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / max(self.audio_seconds, 1e-9)

    def report(self) -> dict[str, dict[str, Any]]:
        """For result.json; nothing where nothing was tested."""
        found: dict[str, dict[str, Any]] = {
            "test_utterances": self.utterances,
            "test_missing": self.missing,
            "intervals": self.intervals,
        }
        return found if self.utterances else {}


def interval_of(figures: Mapping[str, Any] | None, name: str) -> Interval | None:
    """An interval out of a ``result.json``; None where it has none.

    Args:
        figures: entries, such as ``intervals``.
        name: of one, such as ``test-clean_wer``.
    """
    bounds = (figures or {}).get(name)
    return None if bounds is None or None in bounds else (bounds[0], bounds[1])


def missing_utterances(result: Mapping[str, Any]) -> str:
    """What was not scored of the test sets of a run; empty if nothing is missing.

    Args:
        result: content of ``result.json``.
    """
    missing = {name: n for name, n in (result.get("test_missing") or {}).items() if n}
    scored = result.get("test_utterances") or {}
    parts = [f"{n} of {n + scored.get(name, 0)} of {name}" for name, n in missing.items()]
    return f"test utterances that are not scored: {', '.join(parts)}" if parts else ""
