"""LibriSpeech manifests (Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio
books", ICASSP 2015), with the columns of SpeechBrain's recipes: ID, duration, wav, spk_id, wrd.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.librispeech_tree import (
    SPLITS,
    corpus_root,
    read_split,
    split_fingerprint,
    split_folder,
)
from summarymixing_modules.data.manifest import ManifestError, merge_manifests
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance, Verify

__all__ = ["SPLITS", "LibriSpeechManifests", "prepare_librispeech"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LibriSpeechManifests:
    """Where the manifests are.

    Attributes:
        train: the training splits, merged.
        valid: the development splits, merged.
        test: one manifest for each test split.
    """

    train: Path
    valid: Path
    test: dict[str, Path]


def prepare_librispeech(
    data_folder: str | os.PathLike[str],
    save_folder: str | os.PathLike[str],
    train_splits: Sequence[str] = ("train-clean-100",),
    dev_splits: Sequence[str] = ("dev-clean",),
    test_splits: Sequence[str] = ("test-clean",),
    workers: int = 8,
    verify: Verify = "header",
    max_bad_fraction: float = 0.01,
    skip_prep: bool = False,
    progress: bool = True,
    test_max_bad_fraction: float = 0.0,
) -> LibriSpeechManifests:
    """Write ``train.csv``, ``valid.csv`` and a CSV for each split into ``save_folder``.

    Audio paths start with ``$data_root``, which stands for ``data_folder`` as it is given here:
    ``DynamicItemDataset.from_csv(path, replacements={"data_root": data_folder})``. Utterances that
    cannot be used (no audio file, no transcript, broken, empty, not 16 kHz mono) are left out, and
    listed in ``bad_SPLIT.csv``.

    A call that was stopped continues after the splits that it had finished. A finished split is
    done again if the settings, its transcripts, its list of files or a file found bad changed. In a
    distributed run, call it on the main process only (``run_on_main``).

    Args:
        data_folder: the LibriSpeech folder or its parent.
        save_folder: where to put the manifests.
        train_splits: one or more of `SPLITS`.
        dev_splits: one or more.
        test_splits: any number.
        workers: threads that examine audio files.
        verify: ``"header"`` reads every file's header, ``"decode"`` decodes every file, which finds
            truncated ones too (1000 h take about an hour of CPU time).
        max_bad_fraction: part of a split that may be unusable; one file always may, unless this is
            0.
        skip_prep: take the manifests that are there, unchecked.
        progress: show progress bars.
        test_max_bad_fraction: part of a test split that may be unusable: scores of a part of a test
            set cannot be compared.

    Raises:
        ManifestError: no corpus, no such split, no usable utterance, the same split in train and in
            evaluation, a malformed transcript, or an ID used twice.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    _check_splits(train_splits, dev_splits, test_splits)
    save = Path(save_folder)
    manifests = LibriSpeechManifests(
        train=save / "train.csv",
        valid=save / "valid.csv",
        test={split: save / f"{split}.csv" for split in test_splits},
    )
    if skip_prep:
        for path in (manifests.train, manifests.valid, *manifests.test.values()):
            if not path.is_file():
                raise ManifestError(f"{path}: no such manifest, so --skip_prep cannot be true yet")
        return manifests
    folder = Path(data_folder)
    preparation = Preparation(
        folder, save, workers, verify, max_bad_fraction, progress, False, test_max_bad_fraction
    )
    root = corpus_root(folder)
    if (root / "demo.json").is_file():
        logger.warning("%s is the SYNTHETIC demo corpus: no human speech", root)
    for split in dict.fromkeys((*train_splits, *dev_splits, *test_splits)):
        source = split_folder(root, split)
        state = {"root": str(root.relative_to(folder)), **split_fingerprint(source)}
        preparation.prepare(split, state, partial(_listing, source), split in test_splits)
    merge_manifests([save / f"{split}.csv" for split in train_splits], manifests.train)
    merge_manifests([save / f"{split}.csv" for split in dev_splits], manifests.valid)
    return manifests


def _check_splits(train: Sequence[str], dev: Sequence[str], test: Sequence[str]) -> None:
    for flag, splits in (("train", train), ("dev", dev), ("test", test)):
        if isinstance(splits, str):
            raise ManifestError(f"--{flag}_splits {splits!r}: give a list, [{splits}]")
        if len(set(splits)) < len(splits):
            raise ManifestError(f"--{flag}_splits {list(splits)}: a split is named twice")
        if not splits and flag != "test":
            raise ManifestError(f"--{flag}_splits: name at least one of {', '.join(SPLITS)}")
    leaked = sorted(set(train) & {*dev, *test})
    if leaked:
        raise ManifestError(
            f"{', '.join(leaked)}: in --train_splits and also in --dev_splits or --test_splits; "
            "scores on training data mean nothing: take it out of one of them"
        )


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
