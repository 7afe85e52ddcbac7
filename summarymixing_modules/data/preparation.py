"""From what a corpus lists to manifests: examined, resumable, with a limit on what is unusable.

A split NAME becomes ``NAME.csv`` (a manifest), ``NAME.jsonl`` (its annotations, where the corpus
has labels; see data/labelled.py), ``bad_NAME.csv`` (what could not be used, if anything) and
``NAME.json`` (the stamp that lets a later call keep all of it).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

from summarymixing_modules.data.audio import (
    SAMPLE_RATE,
    AudioError,
    AudioInfo,
    check_audio,
    read_audio,
)
from summarymixing_modules.data.bad_audio import (
    FLAG,
    TEST_FLAG,
    BadAudioLog,
    BadFile,
    refuse_too_many,
)
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.labelled import annotations_of, write_annotations
from summarymixing_modules.data.manifest import (
    DATA_ROOT,
    ManifestError,
    Row,
    read_manifest,
    write_manifest,
)
from summarymixing_modules.data.parts import check_length, part_in_samples
from summarymixing_modules.data.threads import in_threads

logger = logging.getLogger(__name__)

Verify = Literal["header", "decode"]
#: What `Preparation.wanted` calls a transcript.
TRANSCRIPT = "text"
#: Raise it whenever the same corpus and settings give other manifests.
_VERSION = 3


@dataclass(frozen=True, slots=True)
class Utterance:
    """An utterance as a corpus lists it; its audio has not been looked at.

    Attributes:
        id: unique in a split.
        audio: its file.
        annotation: labels and whatever else belongs to it, as JSON.
        text: transcript, where there is one.
        speaker: where the corpus tells.
        start: first sample of the file that belongs to it, at the file's rate.
        stop: one past its last sample; None is the end of the file.
        part: instead of these, where it starts and ends in seconds; None is the end of the file.
        lasts: seconds that the file is said to last, which are compared.
    """

    id: str
    audio: Path
    annotation: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    speaker: str = ""
    start: int = 0
    stop: int | None = None
    part: tuple[float, float | None] | None = None
    lasts: float | None = None


@dataclass(frozen=True)
class Listing:
    """What a corpus lists for a split.

    Attributes:
        utterances: in their order.
        bad: entries of the lists that cannot be used.
    """

    utterances: list[Utterance] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)


@dataclass(frozen=True)
class Preparation:
    """The settings that all corpora share, and the work on one split at a time.

    Attributes:
        data_folder: the folder that ``$data_root`` stands for.
        save_folder: where manifests go.
        workers: threads that examine audio files.
        verify: "header" reads every file's header, "decode" decodes every file.
            (which finds truncated ones too; 1000 h take about an hour of CPU time).
        max_bad_fraction: part of a split that may be unusable; one entry always may, unless it is
            0.
        test_max_bad_fraction: part of a test split that may be unusable: scores of a part of a
            test set cannot be compared.
        skip_prep: take the manifests that are there, unchecked.
        progress: show progress bars.
        wanted: what every utterance must have besides its audio, for a corpus that may lack it:
            `TRANSCRIPT`, or names of labels.

    Raises:
        ManifestError: a setting that means nothing.
    """

    data_folder: Path
    save_folder: Path
    workers: int = 8
    verify: Verify = "header"
    max_bad_fraction: float = 0.01
    test_max_bad_fraction: float = 0.0
    skip_prep: bool = False
    progress: bool = True
    wanted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verify not in get_args(Verify):
            raise ManifestError(
                f"--verify_audio {self.verify!r}: use one of {', '.join(get_args(Verify))}"
            )
        if self.workers < 1:
            raise ManifestError(f"--prep_workers {self.workers}: use at least 1")

    def prepare(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        listing: Callable[[], Listing],
        test: bool = False,
        any_format: bool = False,
        overrun: float = 0.0,
    ) -> Path:
        """Write a split, or keep it if it is finished and nothing has changed.

        Args:
            name: of the split, and so of its files.
            fingerprint: JSON that changes when the corpus or the settings of the listing do.
            listing: lists the split; called only if it has to be prepared.
            test: the split is for testing.
            any_format: files may have any rate and number of channels, and are resampled whenever
                they are read; others are unusable unless they have one channel at `SAMPLE_RATE`.
            overrun: seconds by which an utterance may be said to end after its file does; it then
                ends with the file.

        Returns:
            the manifest.

        Raises:
            ManifestError: no usable utterance, or an ID used twice.
            TooManyBadFiles: more is unusable than is tolerated.
        """
        csv_path = self.save_folder / f"{name}.csv"
        stamp_path = self.save_folder / f"{name}.json"
        current = {"version": _VERSION, "verify": self.verify, **fingerprint}
        bad = _bad_of_finished(csv_path, stamp_path, current)
        again = " (as prepared before)"
        if bad is None:
            again = ""
            self._bad_log(name).csv_path.unlink(missing_ok=True)
            listed = listing()
            rate = None if any_format else SAMPLE_RATE
            rows, bad = self._examine(listed, name, rate, overrun)
            self.refuse_too_many(bad, name, len(rows), test)
            self._write(csv_path, listed, rows, bad)
            write_atomically(stamp_path, _stamp(csv_path, current, bad))
        manifest = read_manifest(csv_path)
        if again:
            self.refuse_too_many(bad, name, len(manifest), test)
        hours = manifest.durations.sum() / 3600
        logger.info(
            f"{name}: {len(manifest)} utterances, {hours:.2f} h, {len(bad)} unusable{again}"
        )
        return csv_path

    def _write(
        self, csv_path: Path, listed: Listing, rows: Sequence[Row], bad: Sequence[BadFile]
    ) -> None:
        if not rows:
            why = f" ({bad[0].reason})" if bad else ""
            raise ManifestError(
                f"{csv_path.stem}: there is no usable utterance in {self.data_folder}{why}"
            )
        annotations = {utterance.id: utterance.annotation for utterance in listed.utterances}
        if any(annotations.values()):
            write_annotations(csv_path, {row.id: annotations[row.id] for row in rows})
        write_manifest(csv_path, rows)

    def _examine(
        self, listing: Listing, name: str, rate: int | None, overrun: float
    ) -> tuple[list[Row], list[BadFile]]:
        """Check every file, once for all utterances in a row that are in it."""
        rows: list[Row] = []
        bad = list(listing.bad)
        if len({utterance.id for utterance in listing.utterances}) < len(listing.utterances):
            raise ManifestError(f"{name}: an ID is used for two utterances of {self.data_folder}")
        files = [list(part) for _, part in groupby(listing.utterances, key=attrgetter("audio"))]
        examine, counts = partial(self._examine_file, rate, overrun), [*map(len, files)]
        for results in in_threads(examine, files, self.workers, name, "utt", self.progress, counts):
            for result in results:
                if isinstance(result, Row):
                    rows.append(result)
                else:
                    bad.append(result)
        return rows, bad

    def _examine_file(
        self, rate: int | None, overrun: float, utterances: Sequence[Utterance]
    ) -> list[Row | BadFile]:
        """Check utterances of one file."""
        audio = utterances[0].audio
        try:
            info = check_audio(audio, rate)
        except AudioError as err:
            return [BadFile(str(audio), utterance.id, str(err)) for utterance in utterances]
        return [self._examine_one(utterance, info, overrun) for utterance in utterances]

    def _examine_one(self, utterance: Utterance, info: AudioInfo, overrun: float) -> Row | BadFile:
        audio, start, stop = utterance.audio, utterance.start, utterance.stop
        try:
            if utterance.lasts is not None:
                check_length(audio, info, utterance.lasts)
            if utterance.part is not None:
                start, stop = part_in_samples(audio, info, *utterance.part)
            if stop is not None and 0 < stop - info.frames <= overrun * info.sample_rate:
                stop = info.frames
            end = info.frames if stop is None else stop
            if not 0 <= start < end <= info.frames:
                raise AudioError(
                    f"{audio}: the samples {start} to {end} of {utterance.id} are not in it, it "
                    f"has {info.frames}: copy it again, or correct where the utterance lies"
                )
            if self.verify == "decode":
                read_audio(audio, SAMPLE_RATE, start, stop)
        except AudioError as err:
            return BadFile(str(audio), utterance.id, str(err))
        return Row(
            id=utterance.id,
            duration=(end - start) / info.sample_rate,
            wav=self._located(audio),
            spk_id=utterance.speaker,
            wrd=utterance.text,
            start=start,
            stop=stop,
        )

    def _located(self, audio: Path) -> str:
        if audio.is_relative_to(self.data_folder):
            return f"{DATA_ROOT}/{audio.relative_to(self.data_folder).as_posix()}"
        return str(audio.absolute())

    def _bad_log(self, name: str) -> BadAudioLog:
        return BadAudioLog(self.save_folder / f"bad_{name}.csv")

    def refuse_too_many(
        self, bad: Sequence[BadFile], name: str, usable: int, test: bool = False
    ) -> None:
        """List what is unusable of a split; refuse too much.

        Args:
            bad: what is.
            name: of the split.
            usable: how many utterances are left.
            test: the split is for testing.

        Raises:
            TooManyBadFiles: more is unusable than is tolerated.
        """
        log = self._bad_log(name)
        log.record_all(bad)
        fraction = self.test_max_bad_fraction if test else self.max_bad_fraction
        flag = TEST_FLAG if test else FLAG
        total = usable + len(bad)
        refuse_too_many(bad, total, fraction, log.csv_path, where=f"{name}: ", flag=flag)


def left_out(manifest: Path) -> list[BadFile]:
    """What could not be used of the split of a manifest; nothing if it was not prepared here."""
    try:
        stamp = json.loads(manifest.with_suffix(".json").read_text(encoding="utf-8"))
        return [BadFile(**entry["file"]) for entry in stamp["bad"]]
    except FileNotFoundError:
        return []


def note_left_out(manifest: Path, bad: Sequence[BadFile]) -> None:
    """Note what could not be used beside a manifest that was made of another one."""
    content = {"bad": [{"file": asdict(file)} for file in bad]}
    write_atomically(manifest.with_suffix(".json"), json.dumps(content, indent=1) + "\n")


def file_state(path: str | os.PathLike[str]) -> list[int] | None:
    """Size and time of the last change of a file or folder, for fingerprints; None if missing."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _stamp(csv_path: Path, fingerprint: Mapping[str, Any], bad: list[BadFile]) -> str:
    stamp = {
        "fingerprint": fingerprint,
        "bytes": _sizes(csv_path),
        "bad": [{"file": asdict(file), "state": file_state(file.path)} for file in bad],
    }
    return json.dumps(stamp, indent=1) + "\n"


def _sizes(csv_path: Path) -> list[int]:
    parts = (csv_path, annotations_of(csv_path))
    return [path.stat().st_size if path.exists() else 0 for path in parts]


def _bad_of_finished(
    csv_path: Path, stamp_path: Path, fingerprint: Mapping[str, Any]
) -> list[BadFile] | None:
    """What was left out of a finished split; None if it has to be prepared (again)."""
    try:
        stamp = json.loads(stamp_path.read_text(encoding="utf-8"))
        bad = [BadFile(**entry["file"]) for entry in stamp["bad"]]
        current = (
            # Through JSON, as the stamp has gone: tuples are lists there.
            stamp["fingerprint"] == json.loads(json.dumps(fingerprint))
            and stamp["bytes"] == _sizes(csv_path)
            and all(file_state(entry["file"]["path"]) == entry["state"] for entry in stamp["bad"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return bad if current else None
