"""The speakers of Libri-Light, each prepared on its own and kept in a file: work that can stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.data.audio import AudioError, check_audio, read_audio
from summarymixing_modules.data.bad_audio import BadAudioLog, BadFile, refuse_too_many
from summarymixing_modules.data.corpora.librilight_cuts import CutSettings, cut_by_voice
from summarymixing_modules.data.corpora.librilight_tree import (
    SpeakerListing,
    VoiceActivityError,
    corpus_root,
    list_speaker,
    read_voice_activity,
    speaker_folders,
)
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.preparation import Preparation
from summarymixing_modules.data.threads import in_threads

#: Raise it whenever the same corpus and settings give other manifests.
_VERSION = 1


@dataclass
class Part:
    """What one speaker's folder holds.

    Attributes:
        fingerprint: of the settings and the files.
        files: how many recordings there are, unusable ones included.
        utterances: [recording, relative to the speaker's folder; first sample; one past the last].
        too_short: how many pieces were left out for their length, and their samples.
        bad: the unusable files.
    """

    fingerprint: str
    files: int
    utterances: list[tuple[str, int, int]]
    too_short: tuple[int, int]
    bad: list[dict[str, str]]

    @property
    def samples(self) -> int:
        """Samples of all utterances."""
        return sum(stop - start for _, start, stop in self.utterances)


class SpeakerPreparation:
    """The settings of one call, and the work on the speakers' folders.

    Args:
        settings: that all corpora share.
        cut: how recordings become utterances.
    """

    def __init__(self, settings: Preparation, cut: CutSettings) -> None:
        self.settings = settings
        self.root = corpus_root(settings.data_folder)
        self.parts_folder = settings.save_folder / "librilight"
        self.cut = cut

    def list_speakers(self, splits: Sequence[str]) -> list[SpeakerListing]:
        """List the files of every speaker."""
        folders, settings = speaker_folders(self.root, splits), self.settings
        listed = in_threads(
            list_speaker, folders, settings.workers, "listing", "speaker", settings.progress
        )
        return list(listed)

    def fingerprints(self, listings: Iterable[SpeakerListing]) -> list[str]:
        """For each speaker a text that changes when the settings or its files change."""
        settings = [
            _VERSION,
            str(self.root.relative_to(self.settings.data_folder)),
            self.settings.verify,
        ]
        return [
            digest([*settings, asdict(self.cut), f"{one.split}/{one.speaker}", one.fingerprint])
            for one in listings
        ]

    def examine(self, listings: Sequence[SpeakerListing]) -> list[Part]:
        """Cut the recordings of all speakers that are not finished; read those that are."""
        todo = list(zip(listings, self.fingerprints(listings), strict=True))
        files = [len(one.audio) for one in listings]
        parts = in_threads(
            lambda one: self._part(*one),
            todo,
            self.settings.workers,
            "cutting",
            "file",
            self.settings.progress,
            files,
        )
        return list(parts)

    def _part(self, listing: SpeakerListing, fingerprint: str) -> Part:
        """The part of a speaker, from its file if that is current."""
        path = self.parts_folder / listing.split / f"{listing.speaker}.json"
        with suppress(OSError, ValueError, TypeError):  # not prepared yet, or by another version
            part = Part(**json.loads(path.read_text(encoding="utf-8")))
            if part.fingerprint == fingerprint:
                return part
        part = self._examine_speaker(listing, fingerprint)
        write_atomically(path, json.dumps(asdict(part)) + "\n")
        return part

    def _examine_speaker(self, listing: SpeakerListing, fingerprint: str) -> Part:
        part = Part(fingerprint, len(listing.audio) + len(listing.audioless), [], (0, 0), [])
        for metadata in listing.audioless:
            reason = f"{metadata}: there is no {metadata.stem}.flac beside it: unpack it again"
            part.bad.append(asdict(BadFile(str(metadata), metadata.stem, reason)))
        for audio in listing.audio:
            try:
                self._cut(audio, audio.relative_to(listing.folder).as_posix(), part)
            except (AudioError, VoiceActivityError) as err:
                part.bad.append(asdict(BadFile(str(audio), audio.stem, str(err))))
        return part

    def _cut(self, audio: Path, name: str, part: Part) -> None:
        """Add the utterances of a recording to its speaker's part."""
        frames = check_audio(audio, self.cut.sample_rate).frames
        cuts = cut_by_voice(read_voice_activity(audio, frames, self.cut.sample_rate), self.cut)
        if self.settings.verify == "decode":
            for start, stop in cuts.utterances:
                read_audio(audio, self.cut.sample_rate, start, stop)
        part.utterances += [(name, start, stop) for start, stop in cuts.utterances]
        count, samples = part.too_short
        short = sum(stop - start for start, stop in cuts.too_short)
        part.too_short = (count + len(cuts.too_short), samples + short)

    def refuse_bad(self, parts: Iterable[Part]) -> None:
        """List the unusable recordings in ``bad_audio.csv``; refuse too many of them.

        Raises:
            TooManyBadFiles: more than the fraction (they are listed all the same).
        """
        parts = list(parts)
        bad = [BadFile(**file) for part in parts for file in part.bad]
        total = sum(part.files for part in parts)
        log = BadAudioLog(self.settings.save_folder / "bad_audio.csv")
        log.forget(str(self.root))
        log.record_all(bad)
        refuse_too_many(bad, total, self.settings.max_bad_fraction, log.csv_path, "recordings")


def digest(content: list[Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
