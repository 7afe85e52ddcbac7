"""From the keys of a recipe to speech with its meaning as text (see data/text/semantics.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.data.manifest import Manifests, read_manifest, write_manifest
from summarymixing_modules.data.preparation import left_out, note_left_out
from summarymixing_modules.data.text.semantics import Semantics, semantics_from
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.training.data.audio import build_data
from summarymixing_modules.training.data.manifests import prepare_corpus
from summarymixing_modules.training.data.transcribed import (
    ASRData,
    recipe_tokenizer,
)

logger = get_logger(__name__)


@dataclass(frozen=True)
class SemanticsData(ASRData):
    """What a recipe of speech to meaning trains and tests on.

    Attributes:
        references: the meaning of every utterance of the evaluations.
    """

    references: dict[str, Semantics]


def load_semantics(hparams: Mapping[str, Any]) -> SemanticsData:
    """Prepares a corpus with the meaning as text in the place of transcripts.

    Characters that the training texts do not have are left out of the texts of validation and
    test, which are for the loss; the references of the scores have them.

    Args:
        hparams: of the recipe.

    Raises:
        InputError: see ``prepare_corpus``, ``build_tokenizer`` and ``make_datasets``.
    """
    labelled = prepare_corpus(hparams)
    manifests = Manifests(
        _semantic(labelled.train),
        _semantic(labelled.valid),
        {name: _semantic(path) for name, path in labelled.test.items()},
    )
    run_on_main(_write_texts, [labelled.train, manifests.train])
    tokenizer = recipe_tokenizer(hparams, manifests, bos_eos=True)
    references: dict[str, Semantics] = {}
    for source in (labelled.valid, *labelled.test.values()):
        run_on_main(_write_texts, [source, _semantic(source), tokenizer])
        annotations = read_annotations(source)
        references |= {name: semantics_from(record) for name, record in annotations.items()}
    data = build_data(hparams, manifests, tokenizer)
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
