"""TED-LIUM 2 (Rousseau et al., LREC 2014): talks of some 15 minutes, of which segments are read.

``SPLIT/sph/TALK.sph`` is a recording, ``SPLIT/stm/TALK.stm`` its segments, one line each::

    TALK CHANNEL SPEAKER START END <LABEL> words

Left out are gaps between segments, what is marked as not to be scored, and segments of which no
word is left. Segments that overlap stay, each with its own part of the talk.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from summarymixing_modules.data.audio import SAMPLE_RATE
from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.corpora.splits import Source, prepare_splits
from summarymixing_modules.data.manifest import ManifestError, Manifests
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance, file_state
from summarymixing_modules.data.reading import files_in, read_lines

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
#: Below the data folder; release 3 has the splits of release 2, with more talks to train on.
_ROOTS = (".", "TEDLIUM_release2", "legacy", "TEDLIUM_release-3/legacy")
#: Seconds by which a segment may be said to end after its talk: it is cut there.
_OVERRUN = 0.5

_GAP, _NOT_SCORED = "inter_segment_gap", "ignore_time_segment_in_scoring"
#: <sil>, <unk>, {NOISE}, [NOISE], the (2) of a variant, the name of the segment after its words
_MARKERS = re.compile(r"<[^>]*>|\{[^}]*\}|\[[^]]*\]|\([^)]*\)")
#: The corpus parts "it 's" and "don 't"; words such as "'cause" stay words.
_CLITICS = re.compile(r" (?='(?:S|T|RE|VE|LL|D|M)(?: |$))")


def transcript(words: str) -> str:
    """The words of a segment in capitals, without markers, clitics joined to their words.

    What ``<unk>`` stands for was not transcribed: nothing is put in its place.
    """
    return _CLITICS.sub("", " ".join(_MARKERS.sub(" ", words).upper().split()))


def _transcripts(data_folder: Path, splits: Sequence[str]) -> list[str]:
    """The transcripts of some splits, in order; needs no audio."""
    root = _root(data_folder)
    segments = (segment for split in splits for segment in _segments(_split_folder(root, split)))
    return [segment.text for segment in segments if isinstance(segment, Utterance)]


@register_corpus("tedlium2", source="Rousseau et al., LREC 2014", transcripts=_transcripts)
def prepare_tedlium2(
    preparation: Preparation,
    *,
    train_splits: Sequence[str],
    dev_splits: Sequence[str],
    test_splits: Sequence[str],
) -> Manifests:
    """Write ``train.csv``, ``valid.csv`` and a CSV for each split.

    A segment that ends up to half a second after its recording ends there; one that ends later, or
    begins after it, is unusable.

    Args:
        preparation: its ``data_folder`` is ``TEDLIUM_release2`` or its parent, or, of release 3,
            ``legacy`` or a folder above it.
        train_splits: one or more of `SPLITS`.
        dev_splits: one or more.
        test_splits: any number.

    Raises:
        ManifestError: no corpus, no such split, no usable utterance, or a malformed line.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    return prepare_splits(
        preparation,
        SPLITS,
        partial(_open, preparation.data_folder),
        train_splits,
        dev_splits,
        test_splits,
        "tedlium2-",
        _OVERRUN,
    )


def _open(data_folder: Path) -> Source:
    root = _root(data_folder)

    def source(split: str) -> tuple[dict[str, Any], Callable[[], Listing]]:
        folder = _split_folder(root, split)
        files = [file_state(file) for file in files_in(folder / "stm", ".stm")]
        state = {
            "root": str(root.relative_to(data_folder)),
            "stm": files,
            "sph": file_state(folder / "sph"),
        }
        return state, partial(_listing, folder)

    return source


def _root(data_folder: Path) -> Path:
    for root in (data_folder / name for name in _ROOTS):
        if any((root / split / "stm").is_dir() for split in SPLITS):
            return root
    raise ManifestError(
        f"--data_folder {data_folder}: found no train/stm, dev/stm or test/stm in it, nor in "
        f"{', '.join(_ROOTS[1:])} below it. Give the folder TEDLIUM_release2 "
        "(https://www.openslr.org/19) or its parent"
    )


def _split_folder(root: Path, split: str) -> Path:
    for part in ("stm", "sph"):
        if not (root / split / part).is_dir():
            raise ManifestError(
                f"{root / split / part}: no such folder: unpack it, or name other splits"
            )
    return root / split


def _listing(folder: Path) -> Listing:
    utterances, left_out = [], Counter[str]()
    for segment in _segments(folder):
        if isinstance(segment, Utterance):
            utterances.append(segment)
        else:
            left_out[segment] += 1
    if left_out:
        counts = ", ".join(f"{count} {why}" for why, count in left_out.items())
        logger.info(f"{folder.name}: segments left out: {counts}")
    talks = {utterance.audio for utterance in utterances}
    unlisted = [file for file in files_in(folder / "sph", ".sph") if file not in talks]
    bad = [
        BadFile(str(file), file.stem, f"{file}: there is no segment for it in {folder / 'stm'}")
        for file in unlisted
        if not (folder / "stm" / f"{file.stem}.stm").is_file()
    ]
    return Listing(utterances, bad)


def _segments(folder: Path) -> Iterator[Utterance | str]:
    """The segments of a split, talk by talk; why one is left out, in its place."""
    for file in files_in(folder / "stm", ".stm"):
        audio = folder / "sph" / f"{file.stem}.sph"
        for number, line in enumerate(read_lines(file), start=1):
            if line.strip() and not line.startswith(";;"):  # those are comments
                yield _segment(line, audio, f"{file}:{number}")


def _segment(line: str, audio: Path, where: str) -> Utterance | str:
    talk, _, speaker, start, stop, words = [*line.split(maxsplit=5), "", "", "", "", "", ""][:6]
    try:
        first, last = (round(float(time) * SAMPLE_RATE) for time in (start, stop))
    except (ValueError, OverflowError) as err:
        raise ManifestError(
            f"{where}: malformed segment {line!r}: expected TALK CHANNEL SPEAKER START END <LABEL> "
            "words, with times in seconds: copy the file again"
        ) from err
    if talk != audio.stem:
        raise ManifestError(f"{where}: is a segment of {talk}, not of {audio.stem}: move the line")
    if speaker.lower() == _GAP:
        return "between talkers"
    if _NOT_SCORED in words.lower():
        return "not to be scored"
    if not (text := transcript(words)):
        return "without words"
    identifier = "-".join(
        [talk, *(f"{sample * 100 // SAMPLE_RATE:07d}" for sample in (first, last))]
    )
    return Utterance(identifier, audio, {}, text, speaker, first, last)
