"""The corpora of the layer probes: what is encoded, and who is held out.

Speaker and content share one part of LibriSpeech; emotion takes IEMOCAP.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data.corpora.iemocap import CLASSES, FOLDS, TASK, prepare_iemocap
from summarymixing_modules.data.corpora.librispeech import prepare_librispeech
from summarymixing_modules.data.dataset import make_datasets
from summarymixing_modules.data.labelled import annotations_of, read_annotations
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.data.preparation import Preparation
from summarymixing_modules.data.subset import subset_path, write_subset
from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError

TRAIN_SET, TEST_SET = "train-clean-100", "test-clean"
#: 28 characters and the blank.
TOKENIZER = CharTokenizer()
#: Part of a speaker's utterances that is held out.
HELD_OUT = 0.2
#: Raise it whenever the same encoder, data and settings give other figures.
_VERSION = 1


class Settings(argparse.Namespace):
    """What is probed, and how: the flags of ``layer_probes.py``, whose help explains them."""

    encoders: list[str]
    trust_run: bool
    corpora: Path
    tasks: list[str]
    output_folder: Path
    max_hours: float
    content_epochs: int
    batch_seconds: float
    device: str
    num_workers: int
    prep_workers: int
    max_bad_audio: float
    seed: int


@dataclass(frozen=True)
class Corpus:
    """Datasets to encode, by what progress bars call them; emotions (class of each utterance).

    ``identity`` is what figures depend on besides the encoder, as JSON gives it back.
    """

    sets: Mapping[str, DynamicItemDataset]
    identity: Mapping[str, Any]
    emotions: Mapping[str, int] = field(default_factory=dict)

    @functools.cached_property
    def speakers(self) -> dict[str, str]:
        """Utterance → ``spk_id``, for LibriSpeech speaker-chapter."""
        sets = self.sets.values()
        return {name: item["spk_id"] for part in sets for name, item in part.data.items()}

    def hours(self, name: str) -> float:
        """How long the utterances of a set last."""
        return sum(item["duration"] for item in self.sets[name].data.values()) / 3600


class Corpora:
    """The corpora, prepared when they are first asked for.

    That raises an ``InputError`` if there is no such corpus, or one that is damaged.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._save = settings.output_folder / "save"

    def _preparation(self, save: Path) -> Preparation:
        settings, bad = self.settings, self.settings.max_bad_audio
        return Preparation(
            settings.corpora, save, settings.prep_workers, "header", bad, test_max_bad_fraction=bad
        )

    @functools.cached_property
    def librispeech(self) -> Corpus:
        """Parts of LibriSpeech in which all speakers speak about as long."""
        settings, save = self.settings, self._save / "librispeech"
        with _told_for("speaker, content"):
            found = prepare_librispeech(
                self._preparation(save),
                train_splits=[TRAIN_SET],
                dev_splits=[TEST_SET],
                test_splits=[],
            )
        paths = {TRAIN_SET: self._limited(found.train), TEST_SET: self._limited(found.valid)}
        draw = {"seed": settings.seed, "max_hours": settings.max_hours}
        identity = _identity(*paths.values()) | draw
        return Corpus(self._datasets(paths, save, TOKENIZER), identity)

    @functools.cached_property
    def iemocap(self) -> Corpus:
        """IEMOCAP, every fold of which has the speakers and classes that it needs."""
        save = self._save / "iemocap"
        with _told_for("emotion"):
            folds = [prepare_iemocap(self._preparation(save), fold=n) for n in FOLDS]
        # The three sets of any fold are the whole corpus.
        paths = [folds[0].train, folds[0].valid, *folds[0].test.values()]
        sets = {f"IEMOCAP {n}/{len(paths)}": path for n, path in enumerate(paths, start=1)}
        emotions = {
            name: CLASSES.index(labels[TASK])
            for path in paths
            for name, labels in read_annotations(path).items()
        }
        identity = _identity(*paths, *map(annotations_of, paths))
        return Corpus(self._datasets(sets, save), identity, emotions)

    def _limited(self, manifest: Path) -> Path:
        """The manifest, or a part of it that lasts ``max_hours``."""
        hours = self.settings.max_hours
        if sum(row.duration for row in read_manifest(manifest)) <= 3600 * hours:
            return manifest
        write_subset(manifest, hours, self.settings.seed)
        return subset_path(manifest, hours)

    def _datasets(
        self, manifests: Mapping[str, Path], save: Path, tokenizer: CharTokenizer | None = None
    ) -> dict[str, DynamicItemDataset]:
        (first, train), (second, valid), *others = manifests.items()
        datasets = make_datasets(
            train,
            valid,
            dict(others),
            self.settings.corpora,
            tokenizer,
            save / "bad_audio.csv",
            max_bad_fraction=self.settings.max_bad_audio,
            test_max_bad_fraction=self.settings.max_bad_audio,
        )
        return {first: datasets.train, second: datasets.valid, **datasets.test}


@contextmanager
def _told_for(tasks: str) -> Iterator[None]:
    """What is wrong with a corpus is told in the words of this script's flags."""
    try:
        yield
    except InputError as error:
        told = str(error).replace("--data_folder ", "--corpora=")
        raise InputError(f"{told} (needed by --tasks {tasks})") from error


def _identity(*files: Path) -> dict[str, Any]:
    """The version of the probes, and a hash of the content of files (the first 16 digits)."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return {"version": _VERSION, "data": total.hexdigest()[:16]}


@dataclass
class SpeakerSplit:
    """Utterances to train and to test on, with their speakers.

    Speakers with a single utterance are left out; of ``by_chapter`` speakers whole chapters are
    held out, of the others single utterances.
    """

    train: dict[str, str] = field(default_factory=dict)
    test: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    by_chapter: int = 0


def split_speakers(chapters: Mapping[str, str], seed: int) -> SpeakerSplit:
    """Holds about a fifth of each speaker's utterances out, whole chapters where there are several.

    Chapters are held out until they make up a fifth, and one always stays; so it may be half for a
    speaker of two. ``chapters`` maps utterances to speaker-chapter; their order does not matter.
    """
    generator = random.Random(seed)
    by_speaker: defaultdict[str, list[str]] = defaultdict(list)
    for name, chapter in sorted(chapters.items()):
        by_speaker[chapter.partition("-")[0]].append(name)
    split = SpeakerSplit()
    for speaker, spoken in sorted(by_speaker.items()):
        counts = Counter(chapters[name] for name in spoken)
        if len(spoken) < 2:
            split.left_out.append(speaker)
            continue
        if len(counts) > 1:
            split.by_chapter += 1
            held = _held_chapters(counts, generator)
            test = [name for name in spoken if chapters[name] in held]
        else:
            test = generator.sample(spoken, max(1, round(HELD_OUT * len(spoken))))
        for name in spoken:
            (split.test if name in test else split.train)[name] = speaker
    return split


def _held_chapters(counts: Counter[str], generator: random.Random) -> list[str]:
    """Chapters to hold out, drawn until they have their share of the utterances."""
    held: list[str] = []
    for chapter in generator.sample(sorted(counts), len(counts) - 1):
        if sum(counts[name] for name in held) >= math.ceil(HELD_OUT * counts.total()):
            break
        held.append(chapter)
    return held
