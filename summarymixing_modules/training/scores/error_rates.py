"""Error rates: edits by the tokens of the references (Levenshtein, "Binary codes capable of
correcting deletions, insertions, and reversals", 1966).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass
class ErrorRate:
    """Edits of many utterances, in words, characters or other tokens.

    SpeechBrain's ``ErrorRateStats`` has the same totals, and the alignments; it takes a thousand
    times as long for characters.

    Attributes:
        edits: insertions, deletions and substitutions.
        tokens: of the references.
    """

    edits: int = 0
    tokens: int = 0

    def append(self, predicted: Sequence[Hashable], reference: Sequence[Hashable]) -> None:
        """Counts an utterance: lists of words, or texts, which are characters."""
        self.edits += Levenshtein.distance(predicted, reference)
        self.tokens += len(reference)

    @property
    def percent(self) -> float:
        """Edits by 100 tokens; NaN where there was no token."""
        return 100 * self.edits / self.tokens if self.tokens else float("nan")


def split_words(text: str) -> list[str]:
    """The words of a transcript; one without words has one that is empty, as in SpeechBrain."""
    return text.split(" ")
