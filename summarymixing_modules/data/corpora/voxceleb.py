"""VoxCeleb1 (Nagrani et al., "VoxCeleb: a large-scale speaker identification dataset", Interspeech
2017, arXiv 1706.08612): speakers to train on, and trials of other speakers.

The layout is that of the archives: ``wav/SPEAKER/VIDEO/NNNNN.wav``, in one tree or as ``dev/wav``
and ``test/wav``; ``veri_test.txt`` (in the folder or in ``meta`` below it) has the trials, lines of
``1 PATH PATH`` (one speaker) and ``0 PATH PATH`` (two).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from summarymixing_modules.data.preparation import (
    Listing,
    Preparation,
    Utterance,
    file_state,
)
from summarymixing_modules.data.reading import files_in, read_lines, subfolders

logger = logging.getLogger(__name__)

TASK = "speaker"
TRIALS = "trials"
_TRIAL_FILE = "veri_test.txt"
_ROOTS = (".", "voxceleb1", "VoxCeleb1")


@dataclass(frozen=True)
class Trial:
    """Are two utterances of one speaker?

    Attributes:
        same: the answer.
        one: ID of an utterance, its path under ``wav``.
        other: likewise.
    """

    same: bool
    one: str
    other: str

    @property
    def speakers(self) -> tuple[str, str]:
        """Who speaks in them."""
        return self.one.split("/")[0], self.other.split("/")[0]


@register_corpus(
    "voxceleb",
    source="Nagrani et al., Interspeech 2017, arXiv 1706.08612",
    of_recipes=("seed",),
)
def prepare_voxceleb(
    preparation: Preparation,
    *,
    trials_file: str | os.PathLike[str] | None = None,
    valid_share: float = 0.1,
    seed: int = 1986,
) -> Manifests:
    """Write ``voxceleb_{train,valid,trials}.csv`` and ``trials.txt``.

    Annotations have ``speaker``. No speaker of a trial is trained on. Of the videos of every other
    speaker who has several, a seeded share is for validation: no video is in both sets. The test
    set ``"trials"`` has every utterance of the trials once.

    Recordings that cannot be used are left out and listed in ``bad_voxceleb_*.csv``, and so are the
    trials that need them. What is finished is done again only if the settings, the trials or the
    list of recordings has changed.

    Args:
        preparation: its ``data_folder`` is the folder with ``wav`` (or ``dev`` and ``test``), or
            its parent.
        trials_file: another list of trials than ``veri_test.txt``.
        valid_share: of the videos of a training speaker; at least one if there are two.
        seed: of the choice.

    Returns:
        the manifests, with the trials whose two utterances can be used; see `read_trials`.

    Raises:
        ManifestError: no corpus, no or malformed trials, nobody left to train on, or no trial of
            either kind that can be scored.
        TooManyBadFiles: more of a set is unusable than is tolerated.
    """
    if not 0 < valid_share < 1:
        raise ManifestError(f"--valid_share {valid_share}: use a share above 0 and below 1")
    save = preparation.save_folder
    train, valid, tests = (save / f"voxceleb_{name}.csv" for name in ("train", "valid", TRIALS))
    usable = save / "trials.txt"
    manifests = Manifests(train, valid, {TRIALS: tests}, usable)
    if preparation.skip_prep:
        return manifests.require()
    corpus = _Corpus.find(preparation.data_folder, trials_file, valid_share, seed)
    fingerprint = corpus.fingerprint()
    preparation.prepare("voxceleb_train", fingerprint, lambda: corpus.training()[0])
    preparation.prepare("voxceleb_valid", fingerprint, lambda: corpus.training()[1])
    preparation.prepare(f"voxceleb_{TRIALS}", fingerprint, corpus.testing, test=True)
    _write_usable_trials(corpus.trials, tests, usable)
    _refuse_shared_speakers(usable, (train, valid))
    return manifests


def read_trials(file: Path) -> list[Trial]:
    """Read a list of trials.

    Raises:
        ManifestError: no such file, or a line that is not ``1 SPEAKER/VIDEO/FILE SPEAKER/...``, or
            one whose label is not what its paths say.
    """
    if not file.is_file():
        raise ManifestError(
            f"{file}: no such list of trials: get veri_test.txt from the page of VoxCeleb1 "
            "(https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html), or give --trials_file"
        )
    trials = []
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        label, *paths = line.split()
        if (
            label not in ("0", "1")
            or len(paths) != 2
            or any(path.count("/") != 2 for path in paths)
        ):
            raise ManifestError(
                f"{file}:{number}: malformed trial {line!r}: expected '1 SPEAKER/VIDEO/FILE.wav "
                "SPEAKER/VIDEO/FILE.wav' or the same with 0"
            )
        trial = Trial(label == "1", *paths)
        if (trial.speakers[0] == trial.speakers[1]) != trial.same:
            raise ManifestError(f"{file}:{number}: the label {label} contradicts {line!r}")
        trials.append(trial)
    if not trials:
        raise ManifestError(f"{file}: has no trials: copy it again")
    return trials


@dataclass(frozen=True)
class _Corpus:
    """The trees of recordings, the trials, and who is trained on."""

    training_tree: Path
    test_tree: Path
    trials: Sequence[Trial]
    valid_share: float
    seed: int

    @classmethod
    def find(
        cls,
        data_folder: Path,
        trials_file: str | os.PathLike[str] | None,
        valid_share: float,
        seed: int,
    ) -> _Corpus:
        for root in (data_folder / name for name in _ROOTS):
            for training, test in (("wav", "wav"), ("dev/wav", "test/wav")):
                if (root / training).is_dir() and (root / test).is_dir():
                    trials = read_trials(Path(trials_file) if trials_file else _trials_in(root))
                    return cls(root / training, root / test, trials, valid_share, seed)
        raise ManifestError(
            f"--data_folder {data_folder}: found neither wav nor dev/wav and test/wav in it, nor "
            "in voxceleb1 below it. Give the folder of the unpacked VoxCeleb1"
        )

    def fingerprint(self) -> dict[str, object]:
        trees = dict.fromkeys((self.training_tree, self.test_tree))
        speakers = [speaker for tree in trees for speaker in subfolders(tree)]
        # The folder of a video changes when its recordings come or go.
        videos = [file_state(v) or [0, 0] for speaker in speakers for v in subfolders(speaker)]
        return {
            "trees": [str(tree) for tree in trees],
            "videos": [len(videos), max((changed for _, changed in videos), default=0)],
            "trials": hashlib.sha256(repr(self.trials).encode()).hexdigest(),
            "valid_share": self.valid_share,
            "seed": self.seed,
        }

    @functools.cached_property
    def trial_speakers(self) -> set[str]:
        return {speaker for trial in self.trials for speaker in trial.speakers}

    def training(self) -> tuple[Listing, Listing]:
        """Utterances to train and to validate on."""
        found = subfolders(self.training_tree)
        speakers = [folder for folder in found if folder.name not in self.trial_speakers]
        if not speakers:
            raise ManifestError(
                f"{self.training_tree}: all its {len(found)} speakers are in the trials, and none "
                "is left to train on: unpack the development set, or give another --trials_file"
            )
        train, valid = Listing(), Listing()
        draw = random.Random(self.seed)
        for speaker in speakers:
            videos = subfolders(speaker)
            draw.shuffle(videos)
            held = max(1, round(self.valid_share * len(videos))) if len(videos) > 1 else 0
            for rank, video in enumerate(videos):
                part = valid if rank < held else train
                paths = files_in(video, ".wav")
                part.utterances.extend(_utterance(self.training_tree, path) for path in paths)
        return train, valid

    def testing(self) -> Listing:
        """Every utterance of the trials once."""
        names = dict.fromkeys(name for trial in self.trials for name in (trial.one, trial.other))
        return Listing([_utterance(self.test_tree, self.test_tree / name) for name in names])


def _trials_in(root: Path) -> Path:
    places = (root / _TRIAL_FILE, root / "meta" / _TRIAL_FILE)
    return next((place for place in places if place.is_file()), places[0])


def _utterance(tree: Path, path: Path) -> Utterance:
    name = path.relative_to(tree).as_posix()
    speaker = name.split("/")[0]
    return Utterance(name, path, {TASK: speaker}, speaker=speaker)


def _write_usable_trials(trials: Sequence[Trial], tests: Path, file: Path) -> None:
    usable = {row.id for row in read_manifest(tests)}
    kept = [trial for trial in trials if {trial.one, trial.other} <= usable]
    if len(kept) < len(trials):
        logger.warning(
            f"{len(trials) - len(kept)} of {len(trials)} trials left out: one of their recordings "
            "cannot be used"
        )
    if len({trial.same for trial in kept}) < 2:
        raise ManifestError(
            f"of {len(trials)} trials no trial of one speaker, or none of two, can be scored: "
            "unpack the test set again, or give another --trials_file"
        )
    lines = [f"{int(trial.same)} {trial.one} {trial.other}\n" for trial in kept]
    write_atomically(file, "".join(lines))


def _refuse_shared_speakers(trials: Path, manifests: Iterable[Path]) -> None:
    """Check what was written: nobody in a trial may have been trained or validated on."""
    tested = {speaker for t in read_trials(trials) for speaker in t.speakers}
    for path in manifests:
        shared = sorted(tested & {row.spk_id for row in read_manifest(path)})
        if shared:
            raise ManifestError(
                f"{path}: has {', '.join(shared[:5])}, who are in the trials: delete "
                f"{path.parent} and prepare again"
            )
