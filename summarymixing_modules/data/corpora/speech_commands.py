"""Speech Commands (Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition",
arXiv 1804.03209), version 0.02: words into manifests, with "unknown" and "silence" where asked for.

The layout: a folder of one-second clips for every word, ``validation_list.txt`` and
``testing_list.txt`` (clips in neither are for training), and ``_background_noise_``.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from summarymixing_modules.data.audio import SAMPLE_RATE, AudioError, check_audio
from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.manifest import ManifestError, Manifests
from summarymixing_modules.data.preparation import (
    Listing,
    Preparation,
    Utterance,
    file_state,
)
from summarymixing_modules.data.reading import files_in, read_lines, subfolders

logger = logging.getLogger(__name__)

UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
SPLITS = ("training", "validation", "testing")
_LISTS = {"validation": "validation_list.txt", "testing": "testing_list.txt"}
#: Each split has a stretch of its own of every noise recording.
_STRETCHES = {"training": (0.0, 0.8), "validation": (0.8, 0.9), "testing": (0.9, 1.0)}


@dataclass(frozen=True)
class CommandsTask:
    """What is to be told apart.

    Attributes:
        words: a class each; None = every word of the corpus (35 in version 0.02).
        unknown_share: clips of other words, class ``_unknown_``, for every clip of the words.
        silence_share: seconds of background noise, class ``_silence_``, likewise.
        seed: of what is drawn.
        official_test_folder: the unpacked archive of the 12-class test set, in place of the
            testing split; None = that split.

    Raises:
        ManifestError: settings that contradict each other.
    """

    words: Sequence[str] | None = None
    unknown_share: float = 0.0
    silence_share: float = 0.0
    seed: int = 0
    official_test_folder: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or (self.words is not None and not self.words):
            raise ManifestError(f"--words {self.words!r}: give a list, or null for all words")
        if not all(isinstance(word, str) for word in self.words or ()):
            raise ManifestError(
                f"--words {list(self.words or ())}: give texts; YAML may need quotes: 'no', 'on'"
            )
        if self.words is not None and len(set(self.words)) < len(self.words):
            raise ManifestError(f"--words {list(self.words)}: a word is named twice")
        for flag in ("unknown_share", "silence_share"):
            if not 0 <= getattr(self, flag) <= 1:
                raise ManifestError(f"--{flag} {getattr(self, flag)}: use a share from 0 to 1")
        if self.words is None and self.unknown_share > 0:
            raise ManifestError(
                f"--unknown_share {self.unknown_share}: with --words null no word is left to be "
                "unknown: name the words, or set it to 0"
            )


@register_corpus("speech_commands", source="Warden, arXiv 1804.03209")
def prepare_speech_commands(
    preparation: Preparation,
    *,
    words: Sequence[str] | None = None,
    unknown_share: float = 0.0,
    silence_share: float = 0.0,
    draw_seed: int = 0,
    official_test_folder: str | None = None,
) -> Manifests:
    """Write ``training.csv``, ``validation.csv`` and ``testing.csv``.

    Annotations have ``label`` (the class) and ``word``. Clips of other words and crops of noise are
    drawn by the seed, once: every epoch and every run sees the same. A noise recording gives its
    first 80 % to training and 10 % each to validation and testing, so no crop of one overlaps one
    of another.

    Unusable clips, and lines of the lists that name no clip, are left out and listed in
    ``bad_SPLIT.csv``. Resuming is as in ``prepare_slurp``.

    Args:
        preparation: its ``data_folder`` is the unpacked corpus, or its parent.
        words, unknown_share, silence_share, official_test_folder: see `CommandsTask`.
        draw_seed: its ``seed``.

    Raises:
        ManifestError: no corpus, a word without clips, or noise that is missing or too short.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    task = CommandsTask(words, unknown_share, silence_share, draw_seed, official_test_folder)
    train, valid, test = (preparation.save_folder / f"{split}.csv" for split in SPLITS)
    manifests = Manifests(train, valid, {"testing": test})
    if preparation.skip_prep:
        return manifests.require()
    corpus = CommandsCorpus(preparation.data_folder, task)
    for split in SPLITS:
        listing = partial(corpus.listing, split)
        preparation.prepare(split, corpus.fingerprint(), listing, split == "testing")
    return manifests


class CommandsCorpus:
    """The corpus on disk as a task sees it; opens no clip, only headers of noise.

    Args:
        data_folder: the corpus, or its parent.
        task: the classes.

    Raises:
        ManifestError: no corpus there, or a word of the task is not in it.
    """

    def __init__(self, data_folder: Path, task: CommandsTask) -> None:
        self.task = task
        self.root = _corpus_root(data_folder)
        folders = [f for f in subfolders(self.root) if not f.name.startswith(("_", "."))]
        self.clips = {folder.name: files_in(folder, ".wav") for folder in folders}
        self._leave_out_empty_words()
        self.words = list(task.words or self.clips)
        self.official = _official_folder(task)

    def _leave_out_empty_words(self) -> None:
        empty = [word for word, clips in self.clips.items() if not clips]
        missing = [word for word in self.task.words or () if not self.clips.get(word)]
        if missing:
            raise ManifestError(
                f"--words: {self.root} has no clip of {', '.join(missing)}, only of "
                f"{', '.join(word for word in self.clips if word not in empty)}. Name others"
            )
        if empty:
            logger.warning(f"{self.root}: no clip of {', '.join(empty)} ({len(empty)} folders)")
            self.clips = {word: clips for word, clips in self.clips.items() if clips}

    def fingerprint(self) -> dict[str, Any]:
        """Changes when clips come or go, or the lists or the task change."""
        watched = [self.root / word for word in (*self.clips, NOISE, *_LISTS.values())]
        if self.official is not None:
            watched += subfolders(self.official)
        return {
            "task": asdict(self.task),
            "corpus": {str(path): file_state(path) for path in watched},
        }

    def listing(self, split: str) -> Listing:
        """The clips of a split and of its drawn classes.

        Raises:
            ManifestError: a word without a clip for training, or unusable noise.
        """
        if split == "testing" and self.official is not None:
            return Listing(list(_official_clips(self.official, self.words)))
        splits, bad = self._read_lists()
        known = [u for word in self.words for u in self._clips_of(word, split, splits, word)]
        self._check_words(split, known)
        others = [
            utterance
            for word in self.clips
            if word not in self.words
            for utterance in self._clips_of(word, split, splits, UNKNOWN)
        ]
        draw = random.Random(f"{self.task.seed}/{split}/{UNKNOWN}")
        wanted = math.ceil(self.task.unknown_share * len(known))
        if wanted > len(others):
            logger.warning(f"{split}: {len(others)} clips for {UNKNOWN}, not {wanted}: all taken")
        unknown = draw.sample(others, min(wanted, len(others)))
        silence = list(self._silence(split, math.ceil(self.task.silence_share * len(known))))
        return Listing([*known, *unknown, *silence], [b for part, b in bad if part == split])

    def _clips_of(
        self, word: str, split: str, splits: dict[str, str], label: str
    ) -> Iterator[Utterance]:
        for clip in self.clips[word]:
            if splits.get(f"{word}/{clip.name}", "training") == split:
                yield _clip(clip, word, label)

    def _check_words(self, split: str, known: Sequence[Utterance]) -> None:
        counts = Counter(utterance.annotation["word"] for utterance in known)
        empty = [word for word in self.words if not counts[word]]
        if empty and split == "training":
            raise ManifestError(
                f"{self.root}: all clips of {', '.join(empty)} are in the lists for validation and "
                "testing, none is left to train on: name other --words"
            )
        if empty:
            logger.warning(f"{split}: no clip of {', '.join(empty)} ({len(empty)} classes)")

    def _read_lists(self) -> tuple[dict[str, str], list[tuple[str, BadFile]]]:
        """Clip → split, and the lines that name no clip."""
        splits: dict[str, str] = {}
        bad: list[tuple[str, BadFile]] = []
        there = {f"{word}/{clip.name}" for word, clips in self.clips.items() for clip in clips}
        for split, name in _LISTS.items():
            file = self.root / name
            if not file.is_file():
                raise ManifestError(f"{file}: is missing: unpack the corpus again")
            for number, line in enumerate(read_lines(file), start=1):
                clip = line.strip()
                problem = ""
                if clip and clip not in there:
                    problem = "there is no such clip"
                elif splits.get(clip, split) != split:
                    problem = f"it is in {_LISTS[splits[clip]]}, too"
                if problem:
                    where = f"{file}:{number}"
                    bad.append((split, BadFile(where, clip, f"{where}: {clip!r}: {problem}")))
                elif clip:
                    splits[clip] = split
        return splits, bad

    def _silence(self, split: str, wanted: int) -> Iterator[Utterance]:
        """Seconds of noise from the stretches of a split, longer stretches more often."""
        if not wanted:
            return
        starts = list(self._noise_stretches(split))
        draw = random.Random(f"{self.task.seed}/{split}/{SILENCE}")
        weights = [last - first + 1 for _, first, last in starts]
        for index in range(wanted):
            file, first, last = draw.choices(starts, weights)[0]
            start = draw.randint(first, last)
            annotation = {"label": SILENCE, "word": ""}
            yield Utterance(
                f"{SILENCE}/{split}_{index}",
                file,
                annotation,
                start=start,
                stop=start + SAMPLE_RATE,
            )

    def _noise_stretches(self, split: str) -> Iterator[tuple[Path, int, int]]:
        """Noise files, with the first and the last sample at which a crop may start."""
        noise = self.root / NOISE
        files = files_in(noise, ".wav") if noise.is_dir() else []
        if not files:
            raise ManifestError(
                f"{self.root / NOISE}: holds no recordings to take silence from: unpack the corpus "
                "again, or set --silence_share to 0"
            )
        for file in files:
            try:
                frames = check_audio(file, SAMPLE_RATE).frames
            except AudioError as err:
                raise ManifestError(f"silence cannot be made: {err}") from err
            begin, end = (math.floor(share * frames) for share in _STRETCHES[split])
            if end - begin < SAMPLE_RATE:
                raise ManifestError(
                    f"{file}: {frames / SAMPLE_RATE:.1f} s are too short: a tenth of it must last "
                    "1 s. Take it away, or set --silence_share to 0"
                )
            yield file, begin, end - SAMPLE_RATE


def _corpus_root(data_folder: Path) -> Path:
    if not data_folder.is_dir():
        raise ManifestError(f"--data_folder {data_folder}: no such folder. Give Speech Commands")
    roots = [
        f for f in (data_folder, *subfolders(data_folder)) if (f / _LISTS["testing"]).is_file()
    ]
    if not roots:
        raise ManifestError(
            f"--data_folder {data_folder}: found no testing_list.txt in it, nor in a folder below "
            "it. Give the folder into which Speech Commands was unpacked, or its parent"
        )
    if len(roots) > 1 and roots[0] != data_folder:
        raise ManifestError(
            f"--data_folder {data_folder}: holds several corpora ({', '.join(map(str, roots))}): "
            "give one of them"
        )
    return roots[0]


def _official_folder(task: CommandsTask) -> Path | None:
    if task.official_test_folder is None:
        return None
    folder = Path(task.official_test_folder)
    wanted = {*(task.words or ()), UNKNOWN, SILENCE}
    found = {sub.name for sub in subfolders(folder)} if folder.is_dir() else set()
    if found != wanted:
        raise ManifestError(
            f"--official_test_folder {folder}: must hold the folders {', '.join(sorted(wanted))}, "
            f"but holds {', '.join(sorted(found)) or 'none'}. It belongs to the 12-class task"
        )
    return folder


def _official_clips(folder: Path, words: Sequence[str]) -> Iterator[Utterance]:
    for label in (*words, UNKNOWN, SILENCE):
        for clip in files_in(folder / label, ".wav"):
            yield _clip(clip, "" if label.startswith("_") else label, label)


def _clip(clip: Path, word: str, label: str) -> Utterance:
    speaker = clip.stem.split("_nohash_")[0]
    annotation = {"label": label, "word": word}
    return Utterance(f"{clip.parent.name}/{clip.stem}", clip, annotation, speaker=speaker)
