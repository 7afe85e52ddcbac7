"""Common Voice (Ardila et al., "Common Voice: A Massively-Multilingual Speech Corpus", LREC 2020):
its lists and MP3 clips into manifests, at 16 kHz.

The layout is ``cv-corpus-VERSION/LANGUAGE/{train,dev,test}.tsv`` and ``LANGUAGE/clips``.
Clips are MP3 of 32 or 48 kHz. They are decoded and resampled once, into FLAC files: decoding and
resampling them in every epoch would cost more than reading.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile

from summarymixing_modules.data.audio import SAMPLE_RATE, AudioError, probe_audio, read_audio
from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.manifest import ManifestError, Manifests
from summarymixing_modules.data.preparation import (
    Listing,
    Preparation,
    Utterance,
    file_state,
)
from summarymixing_modules.data.text.normalisation import normalise_sentence
from summarymixing_modules.data.threads import in_threads

logger = logging.getLogger(__name__)

_RELEASES = "cv-corpus-*"
SPLITS = ("train", "dev", "test")
_COLUMNS = ("client_id", "path", "sentence")


@register_corpus("common_voice", source="Ardila et al., LREC 2020")
def prepare_common_voice(
    preparation: Preparation,
    *,
    clips_folder: str | os.PathLike[str],
    language: str,
    longest: float | None,
    keep_digits: bool = False,
    split_apostrophes: bool = False,
) -> Manifests:
    """Write ``cv_LANGUAGE_SPLIT.csv`` for train, dev and test.

    Clips that last longer than ``longest`` are left out of all three, as in MP3S. Sentences are
    normalised, see `normalise_sentence`. Entries that cannot be used (a broken clip, none at all,
    no sentence, one with digits, a clip listed before with another sentence) are left out and
    listed in ``bad_cv_LANGUAGE_SPLIT.csv``; of an entry that is listed twice, one counts.

    A call that was stopped continues after the splits that it had finished and, in the one that it
    had not, after the clips converted. A finished split is done again if the settings, its list or
    the list of clips has changed. In a distributed run, call it on the main process only.

    Args:
        preparation: its ``data_folder`` is the release's folder, its parent, or the folder of the
            language. Its ``verify`` means nothing here: converting decodes every clip.
        clips_folder: where to put the clips as 16 kHz FLAC; may be shared by many runs.
        language: name of its folder, such as "cy" (Welsh) or "zh-CN".
        longest: seconds; None is no limit.
        keep_digits: see `normalise_sentence`.
        split_apostrophes: they become spaces, "L HOMME".

    Raises:
        ManifestError: no corpus, no such language in it, a malformed list, or no usable entry.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    names = {split: f"cv_{language}_{split}" for split in SPLITS}
    train, valid, test = (preparation.save_folder / f"{name}.csv" for name in names.values())
    manifests = Manifests(train, valid, {"test": test})
    if preparation.skip_prep:
        return manifests.require()
    preparation = replace(preparation, verify="header")
    root = _language_folder(preparation.data_folder, language)
    target = Path(clips_folder) / language
    converter = _Converter(
        root / "clips", target, language, longest, keep_digits, split_apostrophes
    )
    for split, name in names.items():
        fingerprint = {
            "list": [str(root), file_state(root / f"{split}.tsv")],
            "clips": file_state(root / "clips"),  # a folder changes when files come or go
            "converted": str(Path(clips_folder).absolute()),
            "longest": longest,
            "keep_digits": keep_digits,
            "split_apostrophes": split_apostrophes,
        }
        listing = _lister(preparation, converter, root, split)
        preparation.prepare(name, fingerprint, listing, split == "test")
    return manifests


def _lister(
    preparation: Preparation, converter: _Converter, root: Path, split: str
) -> Callable[[], Listing]:
    """Lists a split: reads its list and converts its clips."""

    def listing() -> Listing:
        entries, bad = _each_once(_read_tsv(root / f"{split}.tsv"))
        title = f"{root.name} {split}"
        done = list(
            in_threads(converter, entries, preparation.workers, title, "clip", preparation.progress)
        )
        found = Listing(
            [result for result in done if isinstance(result, Utterance)],
            [*bad, *(result for result in done if isinstance(result, BadFile))],
        )
        long = len(done) + len(bad) - len(found.utterances) - len(found.bad)
        if long:
            logger.info(f"{title}: {long} clips last over {converter.longest} s, left out")
        return found

    return listing


def _language_folder(data_folder: Path, language: str) -> Path:
    """The folder of a language: in a release, in the only release of a folder, or as it is given.

    Raises:
        ManifestError: there is none, or there are several.
    """
    if data_folder.name == language and (data_folder / "train.tsv").is_file():
        return data_folder
    places = [data_folder, *sorted(data_folder.glob(_RELEASES))]
    found = [place / language for place in places if (place / language / "train.tsv").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        releases = ", ".join(folder.parent.name for folder in found)
        raise ManifestError(f"--data_folder {data_folder}: holds {releases}: give one of them")
    there = sorted(list_.parent.name for place in places for list_ in place.glob("*/train.tsv"))
    known = f" There is {', '.join(there)}." if there else ""
    raise ManifestError(
        f"--data_folder {data_folder}: found no {language}/train.tsv in it, nor in {_RELEASES} "
        f"below it.{known} Give the folder of the unpacked release, and its name of the language "
        "for --language (https://commonvoice.mozilla.org/datasets)"
    )


@dataclass(frozen=True)
class _Entry:
    """A line of a list."""

    clip: str
    sentence: str
    speaker: str
    where: str  # file:line


def _read_tsv(file: Path) -> list[_Entry]:
    if not file.is_file():
        raise ManifestError(f"{file}: no such list: unpack the release again")
    with file.open(encoding="utf-8-sig", newline="") as stream:
        # Sentences hold quotes that mean nothing to the format.
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ManifestError(f"{file}: lacks the columns {', '.join(missing)}: copy it again")
        entries = []
        for row in reader:
            clip, sentence, where = row["path"], row["sentence"], f"{file}:{reader.line_num}"
            if not clip or sentence is None:
                raise ManifestError(f"{where}: malformed line {row}: copy the list again")
            clip = clip if Path(clip).suffix else f"{clip}.mp3"  # as in the first releases
            entries.append(_Entry(clip, sentence, row["client_id"], where))
    return entries


def _each_once(entries: list[_Entry]) -> tuple[list[_Entry], list[BadFile]]:
    """Entries without those that repeat one; and those that contradict one, as unusable."""
    first: dict[str, _Entry] = {}
    bad = []
    for entry in entries:
        known = first.setdefault(entry.clip, entry)
        if known.sentence != entry.sentence:
            reason = f"{entry.where}: has another sentence than {known.where} for the same clip"
            bad.append(BadFile(entry.where, Path(entry.clip).stem, reason))
    return list(first.values()), bad


@dataclass(frozen=True)
class _Converter:
    """Makes an utterance of a list's entry; None for one that lasts too long."""

    clips: Path
    target: Path
    language: str
    longest: float | None
    keep_digits: bool
    split_apostrophes: bool

    def __call__(self, entry: _Entry) -> Utterance | BadFile | None:
        name, source = Path(entry.clip).stem, self.clips / entry.clip
        try:
            text = normalise_sentence(entry.sentence, self.language, self.keep_digits)
            if self.split_apostrophes:
                text = " ".join(text.replace("'", " ").split())
            audio = self._converted(source, self.target / f"{name}.flac")
        except (AudioError, ValueError) as err:
            reason = str(err) if isinstance(err, AudioError) else f"{entry.where}: {err}"
            return BadFile(str(source), name, reason)
        if audio is None:
            return None
        # The manifest's speaker is a short form of the client's 128 digits.
        return Utterance(name, audio, {}, text, entry.speaker[:16])

    def _converted(self, source: Path, target: Path) -> Path | None:
        """The clip at 16 kHz; None if it is too long."""
        if target.is_file() and source.is_file():
            if target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
                return target if self._allows(probe_audio(target).duration) else None
        samples_L = read_audio(source)
        if not self._allows(len(samples_L) / SAMPLE_RATE):
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.stem}.{os.getpid()}.partial.flac")
        soundfile.write(partial, samples_L.clamp(-1, 1).numpy(), SAMPLE_RATE, subtype="PCM_16")
        os.replace(partial, target)
        return target

    def _allows(self, seconds: float) -> bool:
        return self.longest is None or seconds <= self.longest
