"""AISHELL-1 (Bu et al., "AISHELL-1: an open-source Mandarin speech corpus", O-COCOSDA 2017).

``data_aishell/wav/SPLIT/SPEAKER/UTTERANCE.wav``, and all transcripts in one file,
``data_aishell/transcript/aishell_transcript_v0.8.txt``: the utterance, then its words. It is scored
by characters: transcripts become characters without spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.corpora.splits import Source, prepare_splits
from summarymixing_modules.data.manifest import ManifestError, Manifests
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance, file_state
from summarymixing_modules.data.reading import files_in, read_lines, subfolders

SPLITS = ("train", "dev", "test")
_ROOT = "data_aishell"
_SPEAKER = slice(6, 11)  # of an utterance, BAC009S0002W0122
_UNPACK = "unpack its archives (cd {}; for a in *.tar.gz; do tar xzf $a; done)"
_TRANSCRIPT = Path("transcript", "aishell_transcript_v0.8.txt")


def _transcripts(data_folder: Path, splits: Sequence[str]) -> list[str]:
    """The transcripts of some splits, in order."""
    root = _root(data_folder)
    texts = _read_transcript(root / _TRANSCRIPT)
    found = (texts.get(audio.stem) for split in splits for audio in _recordings(root, split))
    return [text for text in found if text]


@register_corpus(
    "aishell1", source="Bu et al., O-COCOSDA 2017", transcripts=_transcripts, error_rate="CER"
)
def prepare_aishell1(
    preparation: Preparation,
    *,
    train_splits: Sequence[str],
    dev_splits: Sequence[str],
    test_splits: Sequence[str],
) -> Manifests:
    """Write ``train.csv``, ``valid.csv`` and a CSV for each split.

    Recordings without a transcript, of which the corpus has some hundreds, and transcripts without
    a recording are left out and listed in ``bad_aishell1-SPLIT.csv``.

    Args:
        preparation: its ``data_folder`` is ``data_aishell`` or its parent.
        train_splits: one or more of `SPLITS`.
        dev_splits: one or more.
        test_splits: any number.

    Raises:
        ManifestError: no corpus, no such split, speakers that are missing or still in archives, no
            usable utterance, or a malformed transcript.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    open_corpus = partial(_open, preparation.data_folder)
    return prepare_splits(
        preparation, SPLITS, open_corpus, train_splits, dev_splits, test_splits, "aishell1-"
    )


def _open(data_folder: Path) -> Source:
    root = _root(data_folder)
    _refuse_missing_speakers(root)

    def source(split: str) -> tuple[dict[str, Any], Callable[[], Listing]]:
        speakers = [file_state(folder) for folder in subfolders(root / "wav" / split)]
        state = {"transcript": file_state(root / _TRANSCRIPT), "speakers": speakers}
        return state, partial(_listing, root, split)

    return source


def _root(data_folder: Path) -> Path:
    for root in (data_folder, data_folder / _ROOT):
        if (root / _TRANSCRIPT).is_file():
            return root
    raise ManifestError(
        f"--data_folder {data_folder}: found no {_TRANSCRIPT} in it, nor in {_ROOT} below it. Give "
        f"the folder {_ROOT} (https://www.openslr.org/33) or its parent"
    )


def _recordings(root: Path, split: str) -> Iterator[Path]:
    """The recordings of a split, speaker by speaker.

    Raises:
        ManifestError: there is none.
    """
    folder, found = root / "wav" / split, 0
    for speaker in subfolders(folder) if folder.is_dir() else []:
        for audio in files_in(speaker, ".wav"):
            found += 1
            yield audio
    if not found:
        packed = files_in(root / "wav", ".tar.gz") if (root / "wav").is_dir() else []
        remedy = "unpack the corpus again"
        if packed:
            remedy = _UNPACK.format(root / "wav")
        raise ManifestError(f"{folder}: holds no recordings: {remedy}")


def _refuse_missing_speakers(root: Path) -> None:
    """Refuse a copy in which speakers of the transcripts have no folder: a set would lack them."""
    wav = root / "wav"
    known = {
        speaker.name
        for split in SPLITS
        for speaker in (subfolders(wav / split) if (wav / split).is_dir() else [])
    }
    missing = sorted({name[_SPEAKER] for name in _read_transcript(root / _TRANSCRIPT)} - known)
    if not missing or not known:  # a split without any recording is told when it is read
        return
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    packed = [name for name in missing if (wav / f"{name}.tar.gz").is_file()]
    remedy = _UNPACK.format(wav) if packed else "unpack the corpus again"
    raise ManifestError(
        f"{wav}: {len(missing)} speakers of {_TRANSCRIPT.name} have no folder in train, dev or "
        f"test there ({shown}): {remedy}"
    )


def _listing(root: Path, split: str) -> Listing:
    texts = _read_transcript(root / _TRANSCRIPT)
    found, speakers, there = Listing(), set(), set()
    for audio in _recordings(root, split):
        speakers.add(audio.parent.name)
        there.add(audio.stem)
        if audio.stem in texts:
            text, speaker = texts[audio.stem], audio.parent.name
            found.utterances.append(Utterance(audio.stem, audio, text=text, speaker=speaker))
        else:
            reason = f"{audio}: a recording without a line in {_TRANSCRIPT.name}"
            found.bad.append(BadFile(str(audio), audio.stem, reason))
    for name in texts:
        if name[_SPEAKER] in speakers and name not in there:
            reason = f"{_TRANSCRIPT.name}: {name} has a transcript, and no recording"
            found.bad.append(BadFile(name, name, reason))
    return found


def _read_transcript(file: Path) -> dict[str, str]:
    """Utterance → its characters."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        name, *words = line.split()
        if not words:
            raise ManifestError(f"{file}:{number}: {name} has no words: copy the file again")
        if name in found:
            raise ManifestError(f"{file}:{number}: {name} occurs twice: copy the file again")
        found[name] = "".join(words).upper()
    return found
