"""Scores of models that write the meaning of an utterance as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.text.semantics import Semantics, parse_semantics
from summarymixing_modules.training.scores.score import Score
from summarymixing_modules.training.scores.slu_metrics import SLUScores

logger = get_logger(__name__)


class MeaningScore(Score):
    """SLU-F1 and its like; see `slu_metrics`.

    Args:
        references: the meaning of every utterance of the evaluations.
    """

    def __init__(self, references: Mapping[str, Semantics]) -> None:
        self.references = references
        self.slu = SLUScores()
        self._written: dict[str, str] = {}

    def append(self, names: Sequence[str], texts: Sequence[str]) -> None:
        """Scores what was written about the utterances of a batch."""
        for utterance, text in zip(names, texts, strict=True):
            self.slu.append(parse_semantics(text), self.references[utterance])
            self._written[utterance] = text

    def summarise(self) -> dict[str, float]:
        """As `SLUScores.summarise`."""
        return self.slu.summarise()

    def write(self, name: str, folder: Path, single: bool) -> None:
        """Writes ``predictions.jsonl``, in the form that SLURP's own script reads.

        Of several sets, each has its own ``predictions_SET.jsonl``.
        """
        path = folder / ("predictions.jsonl" if single else f"predictions_{name}.jsonl")
        lines = []
        for utterance, text in self._written.items():
            meaning = parse_semantics(text)
            said = (meaning or Semantics("none", "none")).to_json()
            line = {"file": f"{utterance}.flac", **said, "well_formed": meaning is not None}
            truth = self.references[utterance].to_json()
            lines.append(json.dumps({**line, "text": text, "reference": truth}) + "\n")
        write_atomically(path, "".join(lines))
        logger.info(
            f"{name}: SLU-F1 {self.slu.slu.f1:.2f} %; {self.slu.malformed} of "
            f"{self.slu.utterances} answers malformed (all of them: {path})"
        )
