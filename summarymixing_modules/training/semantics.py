"""From speech to meaning with a decoder that writes it as text (see data/semantics.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.text.semantics import Semantics, parse_semantics
from summarymixing_modules.data.text.tokenizers import BOS_INDEX, EOS_INDEX
from summarymixing_modules.models.asr.attention_ctc import BeamSearcher
from summarymixing_modules.models.asr.patient_search import PatientBeamSearcher
from summarymixing_modules.training.attention_ctc import AttentionCTCBrain, Searcher
from summarymixing_modules.training.scores.slu_metrics import SLUScores

logger = get_logger(__name__)

#: Settings of the search that mean something for words only; no flags of these recipes.
NO_LANGUAGE_MODEL = {"lm_folder": None, "lm_weight": 0.0, "lm_temperature": 1.0}


class SemanticsBrain(AttentionCTCBrain):
    """As ``AttentionCTCBrain``, and what it writes is scored as meaning.

    The error rates of the base are those of the text form. Checkpoints are ranked by ACC, the
    share of tokens that the teacher-forced decoder gets right, which every epoch has.

    Attributes:
        references: the meaning of every utterance of the evaluations.
    """

    headlines: ClassVar[dict[str, str]] = {
        **AttentionCTCBrain.headlines,
        "test_slu_f1": "slu_f1",
    }

    references: Mapping[str, Semantics]

    def score(self, batch: Any, texts: Sequence[str]) -> None:
        """Counts errors in the text form and in the meaning."""
        super().score(batch, texts)
        for utterance, text in zip(batch.id, texts, strict=True):
            meaning = parse_semantics(text)
            self.slu.append(meaning, self.references[utterance])
            self._written[utterance] = text

    def _make_searcher(self, stage: sb.Stage) -> Searcher:
        """As in the base; but a beam is patient, as answers differ in length."""
        searcher = super()._make_searcher(stage)
        if not isinstance(searcher, BeamSearcher):
            return searcher
        return PatientBeamSearcher(
            modules=[self.model.transformer, self.model.seq_output],
            bos_index=BOS_INDEX,
            eos_index=EOS_INDEX,
            min_decode_ratio=searcher.min_decode_ratio,
            max_decode_ratio=searcher.max_decode_ratio,
            beam_size=searcher.beam_size,
            scorer=searcher.scorer,
            temperature=searcher.temperature,
            using_eos_threshold=False,
            length_normalization=True,
        )

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """As in the base, and fresh scores."""
        super().on_stage_start(stage, epoch)
        self.slu = SLUScores()
        self._written: dict[str, str] = {}

    def end_epoch(
        self,
        epoch: int,
        train_stats: Mapping[str, float],
        valid_stats: Mapping[str, float] | None = None,
    ) -> None:
        """As in the base, with the scores of the meaning where there was a search."""
        found = self.slu.summarise() if self.slu.utterances else {}
        super().end_epoch(epoch, train_stats, {**(valid_stats or {}), **found})

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """As in the base; a test also has the scores of the meaning."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TEST:
            self.test_stats |= self.slu.summarise()

    def write_details(self, name: str, folder: Path, single: bool) -> None:
        """As in the base; and ``predictions.jsonl``, in the form that SLURP's own script reads.

        Of several sets, each has its own ``predictions_SET.jsonl``.
        """
        super().write_details(name, folder, single)
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
