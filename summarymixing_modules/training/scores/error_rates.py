"""Error rates: edits by the tokens of the references (Levenshtein, "Binary codes capable of
correcting deletions, insertions, and reversals", 1966).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import Levenshtein
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import ErrorRateStats

from summarymixing_modules.training.scores.score import Score

logger = get_logger(__name__)


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


class TranscriptScore(Score):
    """Word and character error rates of transcripts, and their alignments."""

    def __init__(self) -> None:
        self.words, self.characters = ErrorRate(), ErrorRate()
        self._rows: list[tuple[str, str, str]] = []

    def append(self, names: Sequence[str], texts: Sequence[str], references: Sequence[str]) -> None:
        """Counts the errors of a batch.

        Args:
            names: of the utterances.
            texts: what was recognised.
            references: what was said.
        """
        for row in zip(names, texts, references, strict=True):
            _, text, reference = row
            self.words.append(split_words(text), split_words(reference))
            self.characters.append(text, reference)
            self._rows.append(row)

    def summarise(self) -> dict[str, float]:
        """ "WER" and "CER" in percent; NaN where nothing was recognised."""
        return {"WER": self.words.percent, "CER": self.characters.percent}

    def write(self, name: str, folder: Path, single: bool) -> None:
        """Writes the alignments, with insertions, deletions and substitutions."""
        del single
        aligned = ErrorRateStats()
        for utterance, text, reference in self._rows:
            aligned.append([utterance], [split_words(text)], [split_words(reference)])
        path = folder / f"wer_{name}.txt"
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as stream:
            aligned.write_stats(stream)
        partial.replace(path)
        logger.info(f"WER on {name}: {self.words.percent:.2f} % (alignments: {path})")
