"""Scores of spoken language understanding, as SLURP defines them.

Bastianelli et al., "SLURP: A Spoken Language Understanding Resource Package", EMNLP 2020, §5.
Reimplemented from that definition; where it leaves a choice, ours is that of SLURP's own script, so
that figures can be compared with published ones. The file predictions.jsonl that recipes write has
the form that the script reads.

- Scenario, action and intent: accuracy. The intent is right when scenario and action are.
- Entity F1: an entity is right when type and filler are, exactly.
- Word-F1 and Char-F1 give partial credit for fillers that were misheard. In the order of the
  prediction, every entity is paired with the nearest entity of its type in the reference that has
  no partner yet (of two that are as near, the first), even if a later one would fit it better.
  Every pair counts as one true positive, and adds its distance d to the false positives and to the
  false negatives. What stays without a partner is one false positive, or one false negative. d is
  the word error rate of the filler (edits by words of the reference; it can be above 1), and for
  Char-F1 the edits between the characters by the length of the longer.
- SLU-F1: from the sums of both counts.

All counts are summed over utterances and types before F1 is taken (micro average).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from summarymixing_modules.data.text.semantics import Entity, Semantics

Distance = Callable[[str, str], float]


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives; fractions where credit is partial."""

    tp: float = 0.0
    fp: float = 0.0
    fn: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """In percent; 0 where nothing was predicted."""
        return _percent(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """In percent; 0 where there was nothing to find."""
        return _percent(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in percent; 100 where both sides are empty."""
        if self == Counts():
            return 100.0
        return _percent(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def word_distance(predicted: str, reference: str) -> float:
    """Word error rate of a filler: edits by words of the reference; can be above 1."""
    words = reference.split()
    return Levenshtein.distance(predicted.split(), words) / max(len(words), 1)


def char_distance(predicted: str, reference: str) -> float:
    """Edits between the characters of two fillers, by the length of the longer; from 0 to 1."""
    return Levenshtein.distance(predicted, reference) / max(len(predicted), len(reference), 1)


def partial_counts(
    predicted: Sequence[Entity], reference: Sequence[Entity], distance: Distance
) -> Counts:
    """Counts of one utterance with partial credit; see the module's docstring.

    Args:
        predicted: entities; their order matters.
        reference: likewise.
        distance: of a predicted filler from the one of the reference.
    """
    waiting = list(reference)
    counts = Counts()
    for entity in predicted:
        partners = [other for other in waiting if other.type == entity.type]
        if not partners:
            counts += Counts(fp=1)
            continue
        apart = [distance(entity.filler, other.filler) for other in partners]
        waiting.remove(partners[apart.index(min(apart))])
        counts += Counts(1, min(apart), min(apart))
    return counts + Counts(fn=len(waiting))


def exact_counts(predicted: Sequence[Entity], reference: Sequence[Entity]) -> Counts:
    """Counts of one utterance where only the same type with the same filler is right."""
    found, wanted = Counter(predicted), Counter(reference)
    right = (found & wanted).total()
    return Counts(right, found.total() - right, wanted.total() - right)


class SLUScores:
    """Scores of many utterances.

    Attributes:
        utterances: how many were scored.
        malformed: how many of the predictions were None.
        exact, word, char: summed counts of the entities.
    """

    def __init__(self) -> None:
        self.utterances = self.malformed = 0
        self.exact, self.word, self.char = Counts(), Counts(), Counts()
        self._right: Counter[str] = Counter()

    def append(self, predicted: Semantics | None, reference: Semantics) -> None:
        """Scores an utterance.

        Args:
            predicted: None for an answer that could not be read: scenario, action and intent are
                wrong then, and every entity is missed.
            reference: the truth.
        """
        self.utterances += 1
        self.malformed += predicted is None
        entities = () if predicted is None else predicted.entities
        self.exact += exact_counts(entities, reference.entities)
        self.word += partial_counts(entities, reference.entities, word_distance)
        self.char += partial_counts(entities, reference.entities, char_distance)
        if predicted is not None:
            same = (predicted.scenario == reference.scenario, predicted.action == reference.action)
            self._right["scenario"] += same[0]
            self._right["action"] += same[1]
            self._right["intent"] += all(same)

    @property
    def slu(self) -> Counts:
        """Counts of SLU-F1."""
        return self.word + self.char

    def summarise(self) -> dict[str, float]:
        """All scores, in percent: F1s, ``malformed``, and ``scenario_acc`` and its like."""
        accuracies = {
            f"{task}_acc": _percent(self._right[task], self.utterances)
            for task in ("scenario", "action", "intent")
        }
        return {
            "slu_f1": self.slu.f1,
            "slu_precision": self.slu.precision,
            "slu_recall": self.slu.recall,
            "word_f1": self.word.f1,
            "char_f1": self.char.f1,
            "entity_f1": self.exact.f1,
            **accuracies,
            "malformed": _percent(self.malformed, self.utterances),
        }


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0
