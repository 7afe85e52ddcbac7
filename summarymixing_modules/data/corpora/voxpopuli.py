"""VoxPopuli (Wang et al., ACL 2021): transcribed speeches of the European Parliament.

Three layouts are read, whichever the data folder holds:

- lists and cut audio, as the corpus's ``get_asr_data`` writes them:
  ``transcribed_data/LANGUAGE/asr_SPLIT.tsv`` and ``transcribed_data/LANGUAGE/YEAR/ID.ogg``;
- those of its copy on Hugging Face, archives unpacked where they are:
  ``data/LANGUAGE/asr_SPLIT.tsv`` and ``data/LANGUAGE/SPLIT/SPLIT_part_N/ID.wav``;
- the annotation and whole sessions: ``transcribed_data/LANGUAGE/asr_LANGUAGE.tsv.gz`` and
  ``raw_audios/original/YEAR/SESSION_original.ogg``. An utterance is read from where its voice
  begins to where it ends, with the pauses that the cut audio lacks.
"""

from __future__ import annotations

import ast
import csv
import gzip
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from summarymixing_modules.data.audio import SAMPLE_RATE
from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.corpora.splits import Source, prepare_splits
from summarymixing_modules.data.manifest import ManifestError, Manifests
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance, file_state
from summarymixing_modules.data.reading import list_folder, subfolders
from summarymixing_modules.data.text.normalisation import normalise_sentence

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
_LISTS = (".", "{0}", "transcribed_data/{0}", "data/{0}")  # below the data folder; {0}: language
_ANNOTATIONS = ("asr_{0}.tsv.gz", "transcribed_data/{0}/asr_{0}.tsv.gz")
_SESSIONS = "raw_audios/original"
_AUDIO = (".wav", ".ogg", ".flac")
#: Seconds by which voice may be said to end after its session: it is cut there, as in the corpus.
_OVERRUN = 0.5


def transcript(normalised: str, language: str) -> str:
    """A normalised text of the corpus as words in capitals; empty if there is none."""
    try:
        return normalise_sentence(normalised, language, keep_digits=True)
    except ValueError:
        return ""


@register_corpus("voxpopuli", source="Wang et al., ACL 2021")
def prepare_voxpopuli(
    preparation: Preparation,
    *,
    language: str,
    train_splits: Sequence[str],
    dev_splits: Sequence[str],
    test_splits: Sequence[str],
) -> Manifests:
    """Write ``train.csv``, ``valid.csv`` and a CSV for each split.

    Args:
        preparation: its ``data_folder`` holds one of the layouts, or is the folder of the lists.
        language: of the corpus, such as ``en``.
        train_splits: one or more of `SPLITS`.
        dev_splits: one or more.
        test_splits: any number.

    Raises:
        ManifestError: no corpus, no such split, no usable utterance, or a list lacks a column.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    return prepare_splits(
        preparation,
        SPLITS,
        partial(_open, preparation.data_folder, language),
        train_splits,
        dev_splits,
        test_splits,
        f"voxpopuli-{language}-",
        _OVERRUN,
    )


def _open(data_folder: Path, language: str) -> Source:
    for folder in (data_folder / place.format(language) for place in _LISTS):
        if any((folder / f"asr_{split}.tsv").is_file() for split in SPLITS):
            return partial(_cut, folder, language)
    sessions = data_folder / _SESSIONS
    for file in (data_folder / place.format(language) for place in _ANNOTATIONS):
        if file.is_file() and sessions.is_dir():
            return partial(_uncut, file, sessions, language)
    tables = [
        f for place in _LISTS for f in (data_folder / place.format(language)).glob("*.parquet")
    ]
    why = f"; of the audio in tables such as {tables[0]} no part can be read" if tables else ""
    raise ManifestError(
        f"--data_folder {data_folder}, --language {language}: found neither lists such as "
        f"asr_train.tsv, there or in transcribed_data/{language} or data/{language}, nor "
        f"asr_{language}.tsv.gz and sessions in {_SESSIONS}{why}. Get them as "
        "recipes/VoxPopuli/ASR/transducer/README.md tells"
    )


def _cut(folder: Path, language: str, split: str) -> tuple[dict[str, Any], Callable[[], Listing]]:
    """A split of lists and audio that is cut."""
    file, unpacked = folder / f"asr_{split}.tsv", folder / split
    if not file.is_file():
        raise ManifestError(f"{file}: no such list: get it as the others, or name other splits")
    around = unpacked if unpacked.is_dir() else folder
    audio = [file_state(entry.path) for entry in list_folder(around) if entry.is_dir()]
    state = {"list": [str(file), file_state(file)], "audio": [file_state(around), *audio]}
    return state, partial(_listing_cut, file, unpacked, language)


def _listing_cut(file: Path, unpacked: Path, language: str) -> Listing:
    found = {path.stem: path for path in _audio_below(unpacked)} if unpacked.is_dir() else {}
    if unpacked.is_dir() and not found:
        raise ManifestError(
            f"{unpacked}: holds no audio: unpack its archives "
            f"(cd {unpacked} && for part in *.tar.gz; do tar -xzf $part; done)"
        )

    def utterance(row: Mapping[str, str]) -> Utterance:
        name = row["id"]
        audio = found.get(name, file.parent / name[:4] / f"{name}.ogg")
        text, speaker = transcript(row["normalized_text"], language), _speaker(row)
        return Utterance(name, audio, {}, text, speaker)

    with file.open(encoding="utf-8-sig", newline="") as stream:
        # The corpus writes texts as they are: quotes mean nothing.
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return _listing(rows, file, ("id", "normalized_text", "speaker_id"), utterance)


def _audio_below(folder: Path) -> Iterator[Path]:
    for entry in list_folder(folder):
        if entry.is_dir():
            yield from _audio_below(Path(entry.path))
        elif entry.name.endswith(_AUDIO):
            yield Path(entry.path)


def _uncut(
    file: Path, sessions: Path, language: str, split: str
) -> tuple[dict[str, Any], Callable[[], Listing]]:
    """A split of the annotation, and whole sessions."""
    folders = [sessions, *subfolders(sessions)]
    state = {"annotation": [str(file), file_state(file)], "audio": [*map(file_state, folders)]}
    return state, partial(_listing_uncut, file, sessions, language, split)


def _listing_uncut(file: Path, sessions: Path, language: str, split: str) -> Listing:
    def utterance(row: Mapping[str, str]) -> Utterance | None:
        if row["split"] != split:
            return None
        session = row["session_id"]
        voice = ast.literal_eval(row["vad"])  # [(start, end), ...], seconds
        first, last = min(start for start, _ in voice), max(stop for _, stop in voice)
        start, stop = round(first * SAMPLE_RATE), round(last * SAMPLE_RATE)
        audio = sessions / session[:4] / f"{session}_original.ogg"
        text, speaker = transcript(row["normed_text"], language), _speaker(row)
        return Utterance(f"{session}-{row['id_']}", audio, {}, text, speaker, start, stop)

    columns = ("session_id", "id_", "normed_text", "speaker_id", "split", "vad")
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        listing = _listing(csv.DictReader(stream, delimiter="|"), file, columns, utterance)
    # Each session is looked at once, for all of its speeches.
    listing.utterances.sort(key=attrgetter("audio", "start"))
    return listing


def _speaker(row: Mapping[str, str]) -> str:
    return "" if row["speaker_id"] == "None" else row["speaker_id"]


def _listing(
    rows: csv.DictReader[str],
    file: Path,
    columns: Sequence[str],
    utterance: Callable[[Mapping[str, str]], Utterance | None],
) -> Listing:
    """Utterances of a list; those without a word are told and left out."""
    listing, empty = Listing(), list[Utterance]()
    try:
        if missing := [name for name in columns if name not in (rows.fieldnames or ())]:
            raise ManifestError(f"{file}: lacks the columns {', '.join(missing)}: get it again")
        for row in rows:
            made = _made(row, f"{file}:{rows.line_num}", columns, utterance)
            if isinstance(made, BadFile):
                listing.bad.append(made)
            elif made is not None:
                (listing.utterances if made.text else empty).append(made)
    except (csv.Error, UnicodeDecodeError, EOFError, OSError) as err:
        raise ManifestError(
            f"{file}: is damaged after line {rows.line_num} ({err}): get it again"
        ) from err
    if empty:
        named = ", ".join(entry.id for entry in empty[:10]) + (", …" if len(empty) > 10 else "")
        logger.warning(f"{file}: left out, without a word: {len(empty)} utterances ({named})")
    return listing


def _made(
    row: Mapping[str, str | None],
    where: str,
    columns: Sequence[str],
    utterance: Callable[[Mapping[str, str]], Utterance | None],
) -> Utterance | BadFile | None:
    """The utterance of a row; None where it is of another split."""
    fields = {name: field for name in columns if (field := row[name]) is not None}
    try:
        if len(fields) < len(columns):
            raise ValueError("has too few fields")
        return utterance(fields)
    except (ValueError, SyntaxError, TypeError, IndexError) as err:
        path, _, line = where.rpartition(":")
        reason = f"{where}: malformed line ({err}): get the list again"
        return BadFile(path, f"line {line}", reason)
