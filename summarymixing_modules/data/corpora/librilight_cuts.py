"""Utterances of a long recording, cut where nobody speaks.

Segments with voice are joined, together with the short pauses between them, until an utterance
would become too long. Nothing is copied: an utterance is a range of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from summarymixing_modules.errors import InputError

#: A range of samples: the first one, and one past the last.
Span = tuple[int, int]


@dataclass(frozen=True)
class CutSettings:
    """How recordings are cut.

    Attributes:
        shortest: utterances that would last less are left out, s.
        longest: no utterance lasts more, s.
        max_pause: a longer silence ends an utterance, s.
        sample_rate: Hz.

    Raises:
        InputError: settings that leave nothing, or that make no sense.
    """

    shortest: float
    longest: float
    max_pause: float
    sample_rate: int

    def __post_init__(self) -> None:
        if not 0 <= self.shortest < self.longest < math.inf:
            raise InputError(
                f"--avoid_if_shorter_than {self.shortest} --avoid_if_longer_than {self.longest}: "
                "recordings are cut into utterances between the two, so the first must be below "
                "the second, and both numbers of seconds"
            )
        if not self.max_pause >= 0:
            raise InputError(f"--max_pause {self.max_pause}: use seconds of silence, at least 0")

    def samples(self, seconds: float) -> int:
        """Whole samples in a time."""
        return math.floor(seconds * self.sample_rate)


@dataclass(frozen=True)
class Cuts:
    """What became of a recording.

    Attributes:
        utterances: ranges of samples, in order, none overlapping another.
        too_short: ranges that were left out because they are too short.
    """

    utterances: list[Span]
    too_short: list[Span]


def cut_by_voice(voiced: Sequence[Span], settings: CutSettings) -> Cuts:
    """Cut a recording into utterances.

    An utterance takes the next segment with voice if the pause before it is at most ``max_pause``
    and the whole then lasts at most ``longest``. A segment that is longer by itself is split into
    equal parts, as few as possible.

    Args:
        voiced: ranges with voice, in order, not overlapping.
        settings: of the cut.
    """
    longest, pause = settings.samples(settings.longest), settings.samples(settings.max_pause)
    pieces: list[Span] = []
    for start, stop in _split(voiced, longest):
        if pieces and start - pieces[-1][1] <= pause and stop - pieces[-1][0] <= longest:
            pieces[-1] = (pieces[-1][0], stop)
        else:
            pieces.append((start, stop))
    shortest = settings.shortest * settings.sample_rate
    kept = [span for span in pieces if span[1] - span[0] >= shortest]
    return Cuts(kept, [span for span in pieces if span[1] - span[0] < shortest])


def _split(voiced: Sequence[Span], longest: int) -> Iterator[Span]:
    """The segments; in their place the equal parts of those that are too long."""
    for start, stop in voiced:
        parts = max(1, math.ceil((stop - start) / longest))
        edges = [start + (stop - start) * part // parts for part in range(parts + 1)]
        yield from zip(edges[:-1], edges[1:], strict=True)
