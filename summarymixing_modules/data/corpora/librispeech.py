"""LibriSpeech manifests (Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio
books", ICASSP 2015), with the columns of SpeechBrain's recipes: ID, duration, wav, spk_id, wrd.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.librispeech_tree import (
    SPLITS,
    corpus_root,
    read_split,
    split_fingerprint,
    split_folder,
    split_transcripts,
)
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.corpora.splits import Source, prepare_splits
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance

logger = logging.getLogger(__name__)


@register_corpus(
    "librispeech", source="Panayotov et al., ICASSP 2015", transcripts=split_transcripts
)
def prepare_librispeech(
    preparation: Preparation,
    *,
    train_splits: Sequence[str],
    dev_splits: Sequence[str],
    test_splits: Sequence[str],
) -> Manifests:
    """Write ``train.csv``, ``valid.csv`` and a CSV for each split.

    Audio paths start with ``$data_root``, which stands for the corpus's folder as it is given here:
    ``DynamicItemDataset.from_csv(path, replacements={"data_root": data_folder})``. Utterances that
    cannot be used (no audio file, no transcript, broken, empty, not 16 kHz mono) are left out, and
    listed in ``bad_SPLIT.csv``.

    A call that was stopped continues after the splits that it had finished. A finished split is
    done again if the settings, its transcripts, its list of files or a file found bad changed. In a
    distributed run, call it on the main process only (``run_on_main``).

    Args:
        preparation: its ``data_folder`` is the LibriSpeech folder or its parent.
        train_splits: one or more of `SPLITS`.
        dev_splits: one or more.
        test_splits: any number.

    Raises:
        ManifestError: no corpus, no such split, no usable utterance, the same split in train and in
            evaluation, a malformed transcript, or an ID used twice.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    return prepare_splits(
        preparation,
        SPLITS,
        partial(_open, preparation.data_folder),
        train_splits,
        dev_splits,
        test_splits,
    )


def _open(data_folder: Path) -> Source:
    root = corpus_root(data_folder)
    if (root / "demo.json").is_file():
        logger.warning("%s is the SYNTHETIC demo corpus: no human speech", root)

    def source(split: str) -> tuple[dict[str, Any], Callable[[], Listing]]:
        folder = split_folder(root, split)
        state = {"root": str(root.relative_to(data_folder)), **split_fingerprint(folder)}
        return state, partial(_listing, folder)

    return source


def _listing(folder: Path) -> Listing:
    """A split as its transcripts list it; audio without one is unusable."""
    split = read_split(folder)
    utterances = [
        Utterance(t.id, t.audio, text=t.text, speaker="-".join(t.id.split("-")[:2]))
        for t in split.transcripts
    ]
    bad = [
        BadFile(str(path), path.stem, f"{path}: audio without a line in a transcript")
        for path in split.untranscribed
    ]
    return Listing(utterances, bad)
