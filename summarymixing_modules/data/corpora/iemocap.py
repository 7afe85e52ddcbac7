"""IEMOCAP (Busso et al., "IEMOCAP: interactive emotional dyadic motion capture database", Language
Resources and Evaluation, 2008): four emotions, ten folds by speaker.

The layout is that of the release: ``IEMOCAP_full_release/SessionN/dialog/EmoEvaluation/*.txt``
tells the emotion of every turn, ``SessionN/sentences/wav/DIALOG/TURN.wav`` is its recording. In
each of the five sessions a woman and a man speak.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.labelled import read_annotations, write_annotations
from summarymixing_modules.data.manifest import (
    ManifestError,
    Manifests,
    Row,
    read_manifest,
    write_manifest,
)
from summarymixing_modules.data.preparation import (
    Listing,
    Preparation,
    Utterance,
    file_state,
    left_out,
    note_left_out,
)
from summarymixing_modules.data.reading import files_in, read_lines

logger = logging.getLogger(__name__)

#: Speaker of each fold's test set; the other speaker of the session is for validation.
SPEAKERS = tuple(f"Ses{session:02d}{sex}" for session in range(1, 6) for sex in "FM")
FOLDS = tuple(range(1, len(SPEAKERS) + 1))
#: The four classes; excitement counts as happiness, as in MP3S and most of the literature.
EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}
CLASSES = tuple(sorted(set(EMOTIONS.values())))
#: Frustrated, surprised, fearful, disgusted, other, and no agreement: not among the four classes.
LEFT_OUT = ("fru", "sur", "fea", "dis", "oth", "xxx")
TASK = "emotion"

_ROOT = "IEMOCAP_full_release"
_TURN = re.compile(r"^\[[\d.]+ - [\d.]+\]\t(?P<turn>\S+)\t(?P<emotion>\S+)\t\[")
_NAME = re.compile(r"^(?P<session>Ses\d\d)[FM]_\w+_(?P<sex>[FM])\w*\d+$")


@register_corpus("iemocap", source="Busso et al., Language Resources and Evaluation, 2008")
def prepare_iemocap(preparation: Preparation, *, fold: int) -> Manifests:
    """Write ``iemocap.csv`` and, for a fold, ``foldN_{train,valid,test}.csv``.

    Fold n tests speaker n of `SPEAKERS`, validates on the other speaker of that session and trains
    on the eight others. Annotations have ``emotion``. Turns with another emotion are left out. The
    full release gives 5531 utterances: 1708 neutral, 1636 happy, 1084 sad, 1103 angry.

    Turns that cannot be used (an emotion that IEMOCAP does not have, no recording, a broken one)
    are left out and listed in ``bad_iemocap.csv``. The corpus is examined again only if something
    in it or in the settings has changed.

    Args:
        preparation: its ``data_folder`` is ``IEMOCAP_full_release`` or its parent; its
            ``test_max_bad_fraction`` is that of the fold's test speaker.
        fold: 1 to 10.

    Raises:
        ManifestError: no corpus, no such fold, or a class or speaker without utterances.
        TooManyBadFiles: more is unusable than is tolerated.
    """
    if fold not in FOLDS:
        raise ManifestError(f"--fold {fold}: use 1 to {len(FOLDS)}")
    parts = ("train", "valid", "test")
    train, valid, test = (preparation.save_folder / f"fold{fold}_{part}.csv" for part in parts)
    manifests = Manifests(train, valid, {"test": test})
    if preparation.skip_prep:
        return manifests.require()
    root = _corpus_root(preparation.data_folder)
    fingerprint = {"root": str(root), "files": [file_state(path) for path in _watched(root)]}
    corpus = preparation.prepare("iemocap", fingerprint, lambda: read_turns(root))
    _write_fold(corpus, manifests, fold)
    (speaker,) = speakers_of_fold(fold)[2]
    bad = [file for file in left_out(corpus) if _speaker(file.id) in (speaker, None)]
    note_left_out(test, bad)
    preparation.refuse_too_many(bad, test.stem, len(read_manifest(test)), test=True)
    return manifests


def speakers_of_fold(fold: int) -> tuple[list[str], list[str], list[str]]:
    """Speakers to train, validate and test on; no speaker is in two of them."""
    test = SPEAKERS[fold - 1]
    partner = next(s for s in SPEAKERS if s != test and s[:-1] == test[:-1])
    return [s for s in SPEAKERS if s not in (test, partner)], [partner], [test]


def _write_fold(corpus: Path, manifests: Manifests, fold: int) -> None:
    rows, annotations = read_manifest(corpus), read_annotations(corpus)
    paths = (manifests.train, manifests.valid, *manifests.test.values())
    for path, speakers in zip(paths, speakers_of_fold(fold), strict=True):
        chosen = [row for row in rows if row.spk_id in speakers]
        missing = sorted(set(speakers) - {row.spk_id for row in chosen})
        if missing:
            raise ManifestError(
                f"--fold {fold} needs {', '.join(missing)}, of whom there is no usable utterance: "
                "unpack the session again"
            )
        write_annotations(path, {row.id: annotations[row.id] for row in chosen})
        write_manifest(path, chosen)
    _require_classes(read_manifest(manifests.train), annotations, fold)


def _require_classes(
    rows: Iterable[Row], annotations: dict[str, dict[str, str]], fold: int
) -> None:
    """Every class must be there to be learnt."""
    counts = Counter(annotations[row.id][TASK] for row in rows)
    empty = [name for name in CLASSES if not counts[name]]
    if empty:
        raise ManifestError(
            f"the training speakers of --fold {fold} have no usable utterance that is "
            f"{' or '.join(empty)}: unpack the corpus again"
        )


def _corpus_root(data_folder: Path) -> Path:
    for root in (data_folder, data_folder / _ROOT):
        if (root / "Session1").is_dir():
            missing = [f"Session{n}" for n in range(1, 6) if not (root / f"Session{n}").is_dir()]
            if missing:
                raise ManifestError(f"{root}: lacks {', '.join(missing)}: unpack the corpus again")
            return root
    raise ManifestError(
        f"--data_folder {data_folder}: found no Session1 in it, nor in {_ROOT} below it. Give the "
        "folder of the release (https://sail.usc.edu/iemocap/)"
    )


def _evaluations(root: Path) -> list[Path]:
    # The release holds hidden files of macOS beside the lists: ._Ses01F_impro01.txt
    found = _in_sessions(root, "dialog", "EmoEvaluation")
    return [path for path in found if path.match("Ses*.txt") and path.is_file()]


def _in_sessions(root: Path, *below: str) -> list[Path]:
    folders = (root.joinpath(f"Session{number}", *below) for number in range(1, 6))
    return [path for folder in folders if folder.is_dir() for path in files_in(folder, "")]


def _watched(root: Path) -> list[Path]:
    """Files and folders that change when labels do, or when recordings come or go."""
    return [*_evaluations(root), *_in_sessions(root, "sentences", "wav")]


def read_turns(root: Path) -> Listing:
    """List the turns of the four classes; nothing here opens an audio file.

    Args:
        root: the folder with Session1 to Session5.

    Raises:
        ManifestError: there are no lists of emotions, or one is not text.
    """
    files = _evaluations(root)
    if not files:
        raise ManifestError(f"{root}: has no SessionN/dialog/EmoEvaluation/*.txt: unpack it again")
    listing, left_out = Listing(), Counter[str]()
    for file in files:
        for where, turn, emotion in _labelled_turns(file):
            if emotion in LEFT_OUT:
                left_out[emotion] += 1
                continue
            result = _utterance(root, where, turn, emotion)
            if isinstance(result, BadFile):
                listing.bad.append(result)
            else:
                listing.utterances.append(result)
    if left_out:
        counts = ", ".join(f"{n} {name}" for name, n in sorted(left_out.items()))
        logger.info(f"Turns of other emotions than {', '.join(CLASSES)}, left out: {counts}")
    return listing


def _labelled_turns(file: Path) -> Iterator[tuple[str, str, str]]:
    """Place, name and emotion of every turn in a list; other lines are single raters' opinions."""
    for number, line in enumerate(read_lines(file), start=1):
        if match := _TURN.match(line):
            yield f"{file}:{number}", match["turn"], match["emotion"]


def _speaker(turn: str) -> str | None:
    """Who says a turn; None if that is not the name of one."""
    name = _NAME.match(turn)
    return None if name is None else name["session"] + name["sex"]


def _utterance(root: Path, where: str, turn: str, emotion: str) -> Utterance | BadFile:
    name = _NAME.match(turn)
    if name is None:
        return BadFile(where, turn, f"{where}: {turn!r} is not the name of a turn")
    if emotion not in EMOTIONS:
        known = ", ".join([*EMOTIONS, *LEFT_OUT])
        return BadFile(where, turn, f"{where}: {emotion!r} is no emotion of IEMOCAP ({known})")
    folder = root / f"Session{int(name['session'][3:])}" / "sentences" / "wav"
    audio = folder / turn.rpartition("_")[0] / f"{turn}.wav"
    annotation = {TASK: EMOTIONS[emotion]}
    return Utterance(turn, audio, annotation, speaker=_speaker(turn) or "")
