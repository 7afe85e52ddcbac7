"""The corpora of the layer probes: what is encoded, and who is held out.

Speaker and content share one part of LibriSpeech's train-clean-100; emotion takes IEMOCAP.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data.dataset import make_datasets
from summarymixing_modules.data.iemocap import CLASSES, FOLDS, TASK, prepare_iemocap
from summarymixing_modules.data.iemocap import speakers_of_fold as iemocap_speakers
from summarymixing_modules.data.labelled import annotations_of, read_annotations
from summarymixing_modules.data.librispeech import prepare_librispeech
from summarymixing_modules.data.manifest import Row, read_manifest, write_manifest
from summarymixing_modules.data.subset import balanced_subset, speaker, subset_path
from summarymixing_modules.data.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError

logger = logging.getLogger(__name__)

TRAIN_SPLIT, TEST_SPLIT = "train-clean-100", "test-clean"
#: Part of a speaker's utterances that is held out.
HELD_OUT = 0.2
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Preparation:
    """How corpora are prepared.

    Attributes:
        corpora: folder that holds the corpora's folders.
        save_folder: where manifests go.
        max_hours: of train-clean-100, and of test-clean, at most.
        seed: of the draw of these parts.
        workers: threads that examine audio.
        max_bad_audio: part of a corpus that may be unusable.
    """

    corpora: Path
    save_folder: Path
    max_hours: float
    seed: int
    workers: int = 8
    max_bad_audio: float = 0.01


@dataclass(frozen=True)
class LibriSpeechPart:
    """Utterances for the probes for speaker and content.

    Attributes:
        train: for speakers (with those held out) and to train on transcripts.
        test: transcripts to test on.
        train_rows: of ``train``.
        test_rows: of ``test``.
        tokenizer: 28 characters and the blank.
        digest: of what these sets are.
    """

    train: DynamicItemDataset
    test: DynamicItemDataset
    train_rows: Sequence[Row]
    test_rows: Sequence[Row]
    tokenizer: CharTokenizer
    digest: str


@dataclass(frozen=True)
class EmotionCorpus:
    """IEMOCAP.

    Attributes:
        parts: datasets that hold every utterance once.
        speakers: utterance → speaker.
        classes: utterance → index of its emotion.
        digest: of what this set is.
    """

    parts: Sequence[DynamicItemDataset]
    speakers: Mapping[str, str]
    classes: Mapping[str, int]
    digest: str


def load_librispeech_part(settings: Preparation) -> LibriSpeechPart:
    """Prepares LibriSpeech and draws a part in which all speakers speak about as long.

    Raises:
        InputError: no such corpus, or one that is damaged.
    """
    save = settings.save_folder / "librispeech"
    manifests = _prepared(
        "speaker, content",
        lambda: prepare_librispeech(
            settings.corpora,
            save,
            [TRAIN_SPLIT],
            [TEST_SPLIT],
            [],
            workers=settings.workers,
            max_bad_fraction=settings.max_bad_audio,
        ),
    )
    train = _limited(manifests.train, settings.max_hours, settings.seed)
    test = _limited(manifests.valid, settings.max_hours, settings.seed)
    tokenizer = CharTokenizer()
    datasets = make_datasets(
        train,
        test,
        {},
        settings.corpora,
        tokenizer,
        save / "bad_audio.csv",
        max_bad_fraction=settings.max_bad_audio,
    )
    return LibriSpeechPart(
        datasets.train,
        datasets.valid,
        read_manifest(train),
        read_manifest(test),
        tokenizer,
        digest_of([train, test]),
    )


def load_emotions(settings: Preparation) -> EmotionCorpus:
    """Prepares IEMOCAP and its ten folds.

    Raises:
        InputError: no such corpus, or one that is damaged.
    """
    save = settings.save_folder / "iemocap"
    folds = [
        _prepared(
            "emotion",
            lambda fold=fold: prepare_iemocap(  # type: ignore[misc]
                settings.corpora,
                save,
                fold,
                workers=settings.workers,
                max_bad_fraction=settings.max_bad_audio,
            ),
        )
        for fold in FOLDS
    ]
    # The three sets of any fold are the whole corpus.
    sets = [folds[0].train, folds[0].valid, *folds[0].test.values()]
    datasets = make_datasets(
        sets[0],
        sets[1],
        {"test": sets[2]},
        settings.corpora,
        None,
        save / "bad_audio.csv",
        max_bad_fraction=settings.max_bad_audio,
    )
    speakers = {row.id: row.spk_id for path in sets for row in read_manifest(path)}
    annotations = {name: label for path in sets for name, label in read_annotations(path).items()}
    classes = {name: CLASSES.index(label[TASK]) for name, label in annotations.items()}
    digest = digest_of([*sets, *map(annotations_of, sets)])
    parts = (datasets.train, datasets.valid, *datasets.test.values())
    return EmotionCorpus(parts, speakers, classes, digest)


def _prepared(tasks: str, prepare: Callable[[], _Result]) -> _Result:
    """Prepares a corpus; what is wrong with it is told in the words of this script's flags."""
    try:
        return prepare()
    except InputError as error:
        told = str(error).replace("--data_folder ", "--corpora=")
        raise InputError(f"{told} (needed by --tasks {tasks})") from error


def _limited(manifest: Path, hours: float, seed: int) -> Path:
    """The manifest, or a part of it that lasts so long."""
    rows = read_manifest(manifest)
    if sum(row.duration for row in rows) <= hours * 3600:
        return manifest
    path = subset_path(manifest, hours)
    write_manifest(path, balanced_subset(rows, hours, seed))
    return path


def digest_of(files: Sequence[Path]) -> str:
    """A hash of the content of files (the first 16 digits)."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


@dataclass(frozen=True)
class SpeakerSplit:
    """Whose voice is learnt from what, and tested on what.

    Attributes:
        train: utterances.
        test: utterances.
        left_out: speakers with a single utterance.
        by_chapter: how many speakers have whole chapters held out; the others, single utterances.
    """

    train: list[str]
    test: list[str]
    left_out: list[str]
    by_chapter: int


def split_speakers(rows: Sequence[Row], seed: int) -> SpeakerSplit:
    """Holds about a fifth of each speaker's utterances out, whole chapters where there are several.

    Chapters are held out until they make up a fifth, and one always stays; so it may be half for a
    speaker of two. Speakers with fewer than two utterances are left out.

    Args:
        rows: of LibriSpeech, whose ``spk_id`` is speaker-chapter; their order does not matter.
        seed: of the draw.
    """
    generator = random.Random(seed)
    by_speaker: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        by_speaker[speaker(row)].append(row)
    split = SpeakerSplit([], [], [], 0)
    by_chapter = 0
    for name, spoken in sorted(by_speaker.items()):
        if len(spoken) < 2:
            split.left_out.append(name)
            continue
        chapters = sorted({row.spk_id for row in spoken})
        by_chapter += len(chapters) > 1
        held = _chapters(chapters, spoken, generator) if len(chapters) > 1 else None
        if held is None:
            count = max(1, round(HELD_OUT * len(spoken)))
            test = {row.id for row in generator.sample(spoken, count)}
        else:
            test = {row.id for row in spoken if row.spk_id in held}
        for row in spoken:
            (split.test if row.id in test else split.train).append(row.id)
    return SpeakerSplit(split.train, split.test, split.left_out, by_chapter)


def _chapters(chapters: list[str], spoken: Sequence[Row], generator: random.Random) -> set[str]:
    """Chapters to hold out, drawn until they have their share of the utterances."""
    wanted = math.ceil(HELD_OUT * len(spoken))
    drawn = generator.sample(chapters, len(chapters) - 1)
    held: set[str] = set()
    for chapter in drawn:
        if sum(row.spk_id in held for row in spoken) >= wanted:
            break
        held.add(chapter)
    return held


def emotion_folds(corpus: EmotionCorpus, names: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Of every fold, the indices in ``names`` to train on (eight speakers) and to test on (one).

    The other speaker of the tested session, on whom other probes validate, is not used.
    """
    folds = []
    for fold in FOLDS:
        train, _, test = iemocap_speakers(fold)
        folds.append(
            (
                [index for index, name in enumerate(names) if corpus.speakers[name] in train],
                [index for index, name in enumerate(names) if corpus.speakers[name] in test],
            )
        )
    return folds
