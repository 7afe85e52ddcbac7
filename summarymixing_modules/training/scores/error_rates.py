"""Error rates: edits by the tokens of the references (Levenshtein, "Binary codes capable of
correcting deletions, insertions, and reversals", 1966), with intervals (Bisani and Ney, "Bootstrap
estimates for confidence intervals in ASR performance evaluation", ICASSP 2004).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import ErrorRateStats

from summarymixing_modules.training.scores.score import Interval, Score

logger = get_logger(__name__)

DRAWS, CONFIDENCE, SEED = 1000, 0.95, 2004


@dataclass
class ErrorRate:
    """Edits of many utterances, in words, characters or other tokens.

    SpeechBrain's ``ErrorRateStats`` has the same totals, and the alignments; it takes a thousand
    times as long for characters.

    Attributes:
        counts: of each utterance, its edits and the tokens of its reference.
    """

    counts: list[tuple[int, int]] = field(default_factory=list)

    def append(self, predicted: Sequence[Hashable], reference: Sequence[Hashable]) -> None:
        """Counts an utterance: lists of words, or texts, which are characters."""
        self.counts.append((Levenshtein.distance(predicted, reference), len(reference)))

    @property
    def edits(self) -> int:
        """Insertions, deletions and substitutions of all utterances."""
        return sum(edits for edits, _ in self.counts)

    @property
    def tokens(self) -> int:
        """Tokens of all references."""
        return sum(tokens for _, tokens in self.counts)

    @property
    def percent(self) -> float:
        """Edits by 100 tokens; NaN where there was no token."""
        return 100 * self.edits / self.tokens if self.tokens else float("nan")

    def interval(self) -> Interval:
        """The 95 % interval of `percent`: quantiles over 1,000 draws of as many utterances, with
        replacement.

        The same utterances give the same interval, in whatever order they come. Draws without a
        token do not count; NaN where there was no token.
        """
        if not self.tokens:
            return float("nan"), float("nan")
        counts_U2 = np.array(sorted(self.counts))
        generator, utterances = np.random.default_rng(SEED), len(counts_U2)
        draws = (generator.integers(utterances, size=utterances) for _ in range(DRAWS))
        sums_R2 = np.stack([counts_U2[drawn_U].sum(axis=0) for drawn_U in draws])
        edits_R, tokens_R = sums_R2[sums_R2[:, 1] > 0].T
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(100 * edits_R / tokens_R, [tail, 1 - tail])
        return float(low), float(high)


def split_words(text: str) -> list[str]:
    """The words of a transcript; one without words has one that is empty, as in SpeechBrain."""
    return text.split(" ")


def in_error_rate(names: Mapping[str, str], error_rate: str) -> dict[str, str]:
    """Names of scores, such as those of ``SafeBrain.headlines``, with another error rate.

    Args:
        names: which may have "WER" as a value, and "wer" in a key.
        error_rate: what stands there instead.
    """
    lower = error_rate.lower()
    return {k.replace("wer", lower): v.replace("WER", error_rate) for k, v in names.items()}


class TranscriptScore(Score):
    """Word and character error rates of transcripts, and their alignments.

    Args:
        error_rate: "WER"; or "CER" for a language without spaces between words: then there is no
            WER, spaces do not count, and characters are aligned.
    """

    def __init__(self, error_rate: str = "WER") -> None:
        self.words, self.characters = ErrorRate(), ErrorRate()
        self.error_rate = error_rate
        self._rows: list[tuple[str, str, str]] = []

    @property
    def _rates(self) -> dict[str, ErrorRate]:
        rates = {"WER": self.words, "CER": self.characters}
        return rates if self.error_rate == "WER" else {"CER": self.characters}

    def _aligned(self, text: str) -> list[str]:
        return split_words(text) if self.error_rate == "WER" else list(text)

    def append(self, names: Sequence[str], texts: Sequence[str], references: Sequence[str]) -> None:
        """Counts the errors of a batch.

        Args:
            names: of the utterances.
            texts: what was recognised.
            references: what was said.
        """
        for name, *pair in zip(names, texts, references, strict=True):
            spaced = self.error_rate == "WER"
            text, reference = pair if spaced else (side.replace(" ", "") for side in pair)
            self.words.append(split_words(text), split_words(reference))
            self.characters.append(text, reference)
            self._rows.append((name, text, reference))

    def summarise(self) -> dict[str, float]:
        """ "WER" and "CER" in percent; NaN where nothing was recognised."""
        return {name: rate.percent for name, rate in self._rates.items()}

    def intervals(self) -> dict[str, Interval]:
        """The 95 % intervals of "WER" and "CER", in percent."""
        return {name: rate.interval() for name, rate in self._rates.items()}

    def write(self, name: str, folder: Path, single: bool) -> None:
        """Writes the alignments, with insertions, deletions and substitutions."""
        del single
        aligned = ErrorRateStats()
        for utterance, text, reference in self._rows:
            aligned.append([utterance], [self._aligned(text)], [self._aligned(reference)])
        path = folder / f"{self.error_rate.lower()}_{name}.txt"
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as stream:
            aligned.write_stats(stream)
        partial.replace(path)
        percent = self._rates[self.error_rate].percent
        logger.info(f"{self.error_rate} on {name}: {percent:.2f} % (alignments: {path})")
