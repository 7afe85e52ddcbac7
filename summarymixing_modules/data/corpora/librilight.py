"""Libri-Light manifests (Kahn et al., "Libri-Light: a benchmark for ASR with limited or no
supervision", arXiv 1912.07875): utterances cut by voice activity, without transcripts.

The corpus has recordings of up to an hour and says where each has voice. An utterance is a row of
the manifest with ``start`` and ``stop``; no audio is written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from summarymixing_modules.data.audio import SAMPLE_RATE
from summarymixing_modules.data.corpora.librilight_cuts import CutSettings
from summarymixing_modules.data.corpora.librilight_parts import Part, SpeakerPreparation, digest
from summarymixing_modules.data.corpora.librilight_tree import SPLITS, SpeakerListing
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.corpora.splits import check_splits
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import (
    DATA_ROOT,
    ManifestError,
    Manifests,
    Row,
    write_manifest,
)
from summarymixing_modules.data.preparation import Preparation

logger = logging.getLogger(__name__)


@register_corpus("librilight", source="Kahn et al., arXiv 1912.07875")
def prepare_librilight(
    preparation: Preparation,
    seed: int = 0,
    *,
    train_splits: Sequence[str],
    dev_splits: Sequence[str] = (),
    test_splits: Sequence[str] = (),
    avoid_if_shorter_than: float,
    avoid_if_longer_than: float,
    max_pause: float,
    valid_hours: float,
) -> Manifests:
    """Cut the recordings into utterances; write ``train.csv`` and ``valid.csv``.

    Audio paths start with ``$data_root``, which stands for the corpus's folder as it is given here.
    A recording is left out, and listed in ``bad_audio.csv``, if it cannot be read, is not 16 kHz
    mono, or if its voice activity is missing or does not fit it.

    A speaker's utterances are kept in ``librilight/SPLIT/SPEAKER.json``: a call that was stopped
    goes on behind the speakers that it had finished, and a speaker is done again if the settings or
    one of its files changed. In a distributed run, call it on the main process only.

    Args:
        preparation: its ``data_folder`` is the Libri-Light folder or its parent; its
            ``max_bad_fraction`` is that of all recordings together.
        seed: of the order of speakers.
        train_splits: one or more of `SPLITS`.
        dev_splits, test_splits: none, as nothing but training speech is there.
        avoid_if_shorter_than: utterances that would last less are left out, s.
        avoid_if_longer_than: no utterance lasts more, s.
        max_pause: a longer silence ends an utterance, s.
        valid_hours: audio of the speakers held out, at most. Speakers come in an order that depends
            on their names and the seed alone, and those that fit are taken.

    Raises:
        InputError: no corpus, no such split, settings that make no sense, no usable recording, or
            nobody to hold out or to train on. Names the flag or file.
        TooManyBadFiles: more recordings are unusable than is tolerated.
    """
    _refuse_evaluation(dev_splits=dev_splits, test_splits=test_splits)
    check_splits(SPLITS, train_splits=train_splits)
    if not valid_hours > 0:
        raise ManifestError(f"--valid_hours {valid_hours}: use hours above 0")
    save = preparation.save_folder
    manifests = Manifests(save / "train.csv", save / "valid.csv")
    if preparation.skip_prep:
        return manifests.require()
    cut = CutSettings(avoid_if_shorter_than, avoid_if_longer_than, max_pause, SAMPLE_RATE)
    work = SpeakerPreparation(preparation, cut)
    listings = work.list_speakers(train_splits)
    own = [valid_hours, seed, preparation.max_bad_fraction]
    stamp = _Stamp(manifests, [*work.fingerprints(listings), *own])
    if (report := stamp.report()) is None:
        parts = work.examine(listings)
        work.refuse_bad(parts)
        held_out = _speakers_to_hold_out(listings, parts, valid_hours, seed)
        report = _write(manifests, preparation.data_folder, listings, parts, held_out)
        stamp.write(report)
    else:
        report += " (as prepared before)"
    logger.info(report)
    return manifests


def _refuse_evaluation(**splits: Sequence[str]) -> None:
    for key, given in splits.items():
        if given:
            raise ManifestError(
                f"--{key} {list(given)}: Libri-Light has only unlabelled training speech. "
                "Leave it at []; speakers of --valid_hours are held out for validation"
            )


def _speakers_to_hold_out(
    listings: Iterable[SpeakerListing], parts: Iterable[Part], hours: float, seed: int
) -> set[str]:
    """Speakers whose audio, of all splits together, lasts at most so many hours."""
    samples: dict[str, int] = {}
    for listing, part in zip(listings, parts, strict=True):
        samples[listing.speaker] = samples.get(listing.speaker, 0) + part.samples
    samples = {speaker: count for speaker, count in samples.items() if count}
    if not samples:
        raise ManifestError(
            "no recording has an utterance of the allowed length: allow more with "
            "--avoid_if_shorter_than and --max_pause"
        )
    room = left = hours * 3600 * SAMPLE_RATE
    held_out: set[str] = set()
    # By hashes, so that further speakers do not change the order of these.
    for speaker in sorted(samples, key=lambda name: digest([seed, name])):
        if samples[speaker] <= left and len(held_out) < len(samples) - 1:
            held_out.add(speaker)
            left -= samples[speaker]
    if left == room:
        least = min(samples.values()) / SAMPLE_RATE / 3600
        raise ManifestError(
            f"--valid_hours {hours:g}: nobody can be held out for validation, as {len(samples)} "
            f"speaker(s) have {least:.4f} h or more each: give more hours, or more speakers"
        )
    return held_out


def _write(
    manifests: Manifests,
    data_folder: Path,
    listings: Sequence[SpeakerListing],
    parts: Sequence[Part],
    held_out: set[str],
) -> str:
    """Write both manifests; returns one line that says what is in them."""
    train: list[Row] = []
    valid: list[Row] = []
    for listing, part in zip(listings, parts, strict=True):
        rows = valid if listing.speaker in held_out else train
        folder = listing.folder.relative_to(data_folder).as_posix()
        for name, start, stop in part.utterances:
            identifier = f"{listing.split}/{listing.speaker}/{name.removesuffix('.flac')}/{start}"
            duration = (stop - start) / SAMPLE_RATE
            wav = f"{DATA_ROOT}/{folder}/{name}"
            rows.append(Row(identifier, duration, wav, listing.speaker, "", start, stop))
    write_manifest(manifests.train, train)
    write_manifest(manifests.valid, valid)
    hours, heard = (sum(row.duration for row in rows) / 3600 for rows in (train, valid))
    count, samples = (sum(part.too_short[index] for part in parts) for index in (0, 1))
    return (
        f"{sum(part.files for part in parts)} recordings of "
        f"{len({listing.speaker for listing in listings})} speakers: {len(train)} utterances, "
        f"{hours:.2f} h, to train on; {len(valid)}, {heard:.2f} h, of {len(held_out)} speakers held"
        f" out; {count}, {samples / SAMPLE_RATE / 3600:.2f} h, too short; "
        f"{sum(len(part.bad) for part in parts)} recordings unusable"
    )


class _Stamp:
    """``librilight.json``: what the manifests were made of, written when they are complete."""

    def __init__(self, manifests: Manifests, settings: list[Any]) -> None:
        self.manifests = manifests
        self.path = manifests.train.with_name("librilight.json")
        self.fingerprint = digest(settings)

    def _sizes(self) -> list[int]:
        return [path.stat().st_size for path in (self.manifests.train, self.manifests.valid)]

    def report(self) -> str | None:
        """The line about the manifests if they are there and current."""
        try:
            stamp = json.loads(self.path.read_text(encoding="utf-8"))
            current = stamp["fingerprint"] == self.fingerprint and stamp["bytes"] == self._sizes()
            return stamp["report"] if current else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, report: str) -> None:
        """Declare the manifests complete."""
        stamp = {"fingerprint": self.fingerprint, "bytes": self._sizes(), "report": report}
        write_atomically(self.path, json.dumps(stamp, indent=1) + "\n")
