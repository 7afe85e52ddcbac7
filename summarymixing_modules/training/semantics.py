"""From speech to meaning with a decoder that writes it as text (see data/semantics.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.labelled import LabelledManifests, read_annotations
from summarymixing_modules.data.manifest import read_manifest, write_manifest
from summarymixing_modules.data.preparation import left_out, note_left_out
from summarymixing_modules.data.text.semantics import Semantics, parse_semantics, semantics_from
from summarymixing_modules.data.text.sentencepiece_tokenizer import build_tokenizer
from summarymixing_modules.data.text.tokenizers import BOS_INDEX, EOS_INDEX, Tokenizer
from summarymixing_modules.models.asr.attention_ctc import BeamSearcher
from summarymixing_modules.models.asr.attention_search import Searcher
from summarymixing_modules.models.asr.patient_search import PatientBeamSearcher
from summarymixing_modules.training.asr_data import DATA_KEYS, ASRData, build_data
from summarymixing_modules.training.attention_ctc import AttentionCTCBrain
from summarymixing_modules.training.classification_data import slurp_manifests
from summarymixing_modules.training.scores.slu_metrics import SLUScores

logger = get_logger(__name__)

SEMANTICS_KEYS = DATA_KEYS
#: Settings of the search that mean something for words only; no flags of these recipes.
NO_LANGUAGE_MODEL = {"lm_folder": None, "lm_weight": 0.0, "lm_temperature": 1.0}


@dataclass(frozen=True)
class SemanticsData(ASRData):
    """What a recipe of speech to meaning trains and tests on.

    Attributes:
        references: the meaning of every utterance of the evaluations.
    """

    references: dict[str, Semantics]


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


def load_slurp_semantics(hparams: Mapping[str, Any]) -> SemanticsData:
    """Prepares SLURP with the meaning as text in the place of transcripts.

    Characters that the training texts do not have are left out of the texts of validation and
    test, which are for the loss; the references of the scores have them.

    Args:
        hparams: with the ``SEMANTICS_KEYS``.

    Raises:
        InputError: see ``prepare_slurp``, ``build_tokenizer`` and ``make_datasets``.
    """
    labelled = slurp_manifests(hparams)
    manifests = LabelledManifests(
        _semantic(labelled.train),
        _semantic(labelled.valid),
        {name: _semantic(path) for name, path in labelled.test.items()},
    )
    run_on_main(_write_texts, [labelled.train, manifests.train])
    tokenizer = build_tokenizer(
        hparams["token_type"],
        manifests.train,
        hparams["save_folder"],
        hparams["output_neurons"],
        bos_eos=True,
    )
    references: dict[str, Semantics] = {}
    evaluated = {labelled.valid: manifests.valid}
    evaluated |= {labelled.test[name]: path for name, path in manifests.test.items()}
    for source, target in evaluated.items():
        run_on_main(_write_texts, [source, target, tokenizer])
        annotations = read_annotations(source)
        references |= {name: semantics_from(record) for name, record in annotations.items()}
    data = build_data(hparams, manifests.train, manifests.valid, manifests.test, tokenizer)
    return SemanticsData(data.datasets, data.train_loader, data.eval_loader, tokenizer, references)


def _semantic(manifest: Path) -> Path:
    return manifest.with_name(f"semantics_{manifest.name}")


def _write_texts(source: Path, target: Path, tokenizer: Tokenizer | None = None) -> None:
    """A manifest with meanings for transcripts, in characters that the tokenizer has."""
    annotations = read_annotations(source)
    texts = {name: semantics_from(record).to_text() for name, record in annotations.items()}
    unknown: set[str] = set()
    if tokenizer is not None:
        unknown = set(tokenizer.unknown_characters("".join(texts.values())))
    if unknown:
        concerned = sum(not unknown.isdisjoint(text) for text in texts.values())
        listed = ", ".join(repr(character) for character in sorted(unknown))
        logger.warning(f"{source.name}: training has no {listed} ({concerned} utterances)")
    dropped = str.maketrans(dict.fromkeys(unknown, ""))
    rows = [replace(row, wrd=texts[row.id].translate(dropped)) for row in read_manifest(source)]
    write_manifest(target, rows)
    note_left_out(target, left_out(source))
