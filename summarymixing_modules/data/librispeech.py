"""LibriSpeech manifests (Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio
books", ICASSP 2015), with the columns of SpeechBrain's recipes: ID, duration, wav, spk_id, wrd.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from summarymixing_modules.data.audio import AudioError, check_audio, read_audio
from summarymixing_modules.data.bad_audio import BadAudioLog, BadFile, TooManyBadFiles, tolerated
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.librispeech_tree import (
    SPLITS,
    Transcript,
    corpus_root,
    read_split,
    split_fingerprint,
    split_folder,
)
from summarymixing_modules.data.manifest import (
    DATA_ROOT,
    ManifestError,
    Row,
    merge_manifests,
    read_manifest,
    write_manifest,
)

__all__ = ["SPLITS", "LibriSpeechManifests", "Verify", "prepare_librispeech"]

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
Verify = Literal["header", "decode"]
#: Raise it whenever the same corpus and settings give other manifests.
_VERSION = 1


@dataclass(frozen=True)
class LibriSpeechManifests:
    """Where the manifests are.

    Attributes:
        train: the training splits, merged.
        valid: the development splits, merged.
        test: one manifest for each test split.
        bad_audio: list of unusable utterances (missing if there are none).
    """

    train: Path
    valid: Path
    test: dict[str, Path]
    bad_audio: Path


def prepare_librispeech(
    data_folder: str | os.PathLike[str],
    save_folder: str | os.PathLike[str],
    train_splits: Sequence[str] = ("train-clean-100",),
    dev_splits: Sequence[str] = ("dev-clean",),
    test_splits: Sequence[str] = ("test-clean",),
    workers: int = 8,
    verify: Verify = "header",
    max_bad_fraction: float = 0.01,
    skip_prep: bool = False,
    progress: bool = True,
) -> LibriSpeechManifests:
    """Write ``train.csv``, ``valid.csv`` and a CSV for each split into ``save_folder``.

    Audio paths start with ``$data_root``, which stands for ``data_folder`` as it is given here:
    ``DynamicItemDataset.from_csv(path, replacements={"data_root": data_folder})``. Utterances that
    cannot be used (no audio file, no transcript, broken, empty, not 16 kHz mono) are left out, and
    listed in ``bad_audio.csv``.

    A call that was stopped continues after the splits that it had finished. A finished split is
    done again if the settings, its transcripts, its list of files or a file found bad changed. In a
    distributed run, call it on the main process only (``run_on_main``).

    Args:
        data_folder: the LibriSpeech folder or its parent.
        save_folder: where to put the manifests.
        train_splits: one or more of `SPLITS`.
        dev_splits: one or more.
        test_splits: any number.
        workers: threads that examine audio files.
        verify: ``"header"`` reads every file's header, ``"decode"`` decodes every file, which finds
            truncated ones too (1000 h take about an hour of CPU time).
        max_bad_fraction: part of a split that may be unusable; one file always may, unless this is
            0.
        skip_prep: take the manifests that are there, unchecked.
        progress: show progress bars.

    Raises:
        ManifestError: no corpus, no such split, no usable utterance, the same split in train and in
            evaluation, a malformed transcript, or an ID used twice.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    _check_arguments(train_splits, dev_splits, test_splits, verify, workers)
    save = Path(save_folder)
    manifests = LibriSpeechManifests(
        train=save / "train.csv",
        valid=save / "valid.csv",
        test={split: save / f"{split}.csv" for split in test_splits},
        bad_audio=save / "bad_audio.csv",
    )
    if skip_prep:
        for path in (manifests.train, manifests.valid, *manifests.test.values()):
            if not path.is_file():
                raise ManifestError(f"{path}: no such manifest, so --skip_prep cannot be true yet")
        return manifests
    preparation = _Preparation(Path(data_folder), save, workers, verify, max_bad_fraction, progress)
    for split in dict.fromkeys((*train_splits, *dev_splits, *test_splits)):
        preparation.prepare_split(split)
    merge_manifests([save / f"{split}.csv" for split in train_splits], manifests.train)
    merge_manifests([save / f"{split}.csv" for split in dev_splits], manifests.valid)
    return manifests


def _check_arguments(
    train: Sequence[str], dev: Sequence[str], test: Sequence[str], verify: str, workers: int
) -> None:
    for flag, splits in (("train", train), ("dev", dev), ("test", test)):
        if isinstance(splits, str):
            raise ManifestError(f"--{flag}_splits {splits!r}: give a list, [{splits}]")
        if len(set(splits)) < len(splits):
            raise ManifestError(f"--{flag}_splits {list(splits)}: a split is named twice")
        if not splits and flag != "test":
            raise ManifestError(f"--{flag}_splits: name at least one of {', '.join(SPLITS)}")
    leaked = sorted(set(train) & {*dev, *test})
    if leaked:
        raise ManifestError(
            f"{', '.join(leaked)}: in --train_splits and also in --dev_splits or --test_splits; "
            "scores on training data mean nothing: take it out of one of them"
        )
    if verify not in get_args(Verify):
        raise ManifestError(f"--verify {verify!r}: use one of {', '.join(get_args(Verify))}")
    if workers < 1:
        raise ManifestError(f"--workers {workers}: use at least 1")


class _Preparation:
    """The settings of one call, and the work on one split at a time."""

    def __init__(
        self,
        data_folder: Path,
        save_folder: Path,
        workers: int,
        verify: Verify,
        max_bad_fraction: float,
        progress: bool,
    ) -> None:
        self.data_folder = data_folder
        self.root = corpus_root(data_folder)
        self.save_folder = save_folder
        self.workers = workers
        self.verify = verify
        self.max_bad_fraction = max_bad_fraction
        self.progress = progress
        # Without a limit: each split is held to it on its own.
        self.bad_log = BadAudioLog(save_folder / "bad_audio.csv")
        if (self.root / "demo.json").is_file():
            logger.warning("%s is the SYNTHETIC demo corpus: no human speech", self.root)

    def prepare_split(self, split: str) -> None:
        """Write ``SPLIT.csv`` and then its stamp, ``SPLIT.json``, or keep them if they are good."""
        folder = split_folder(self.root, split)
        csv_path = self.save_folder / f"{split}.csv"
        stamp_path = csv_path.with_suffix(".json")
        fingerprint = {
            "version": _VERSION,
            "root": str(self.root.relative_to(self.data_folder)),
            "verify": self.verify,
            **split_fingerprint(folder),
        }
        bad = _bad_files_of_finished(csv_path, stamp_path, fingerprint)
        reused = bad is not None
        if bad is None:
            self.bad_log.forget(str(folder))
            rows, bad = self._examine(folder, split)
            self._report_bad(bad, split, len(rows) + len(bad))
            if not rows:
                raise ManifestError(f"{folder}: no usable utterance in it: unpack the split again")
            write_manifest(csv_path, rows)
            write_atomically(stamp_path, _stamp(csv_path, fingerprint, bad))
        else:
            rows = read_manifest(csv_path)
            self._report_bad(bad, split, len(rows) + len(bad))
        logger.info(
            "%s: %d utterances, %.2f h, %d unusable%s",
            split,
            len(rows),
            sum(row.duration for row in rows) / 3600,
            len(bad),
            " (as prepared before)" if reused else "",
        )

    def _examine(self, folder: Path, split: str) -> tuple[list[Row], list[BadFile]]:
        """Check every file of a split, on several threads (libsndfile releases the GIL)."""
        listing = read_split(folder)
        rows: list[Row] = []
        bad = [
            BadFile(str(path), path.stem, f"{path}: audio without a line in a transcript")
            for path in listing.untranscribed
        ]
        bar = tqdm(
            total=len(listing.transcripts), desc=split, unit="utt", disable=not self.progress
        )
        with bar, ThreadPoolExecutor(self.workers) as pool:
            try:
                for result in pool.map(self._examine_one, listing.transcripts):
                    bar.update()
                    if isinstance(result, Row):
                        rows.append(result)
                    else:
                        bad.append(result)
            except BaseException:
                # Otherwise Ctrl-C would wait for hundreds of thousands of files.
                pool.shutdown(cancel_futures=True)
                raise
        return rows, bad

    def _examine_one(self, transcript: Transcript) -> Row | BadFile:
        audio = transcript.audio
        try:
            duration = check_audio(audio, SAMPLE_RATE).duration
            if self.verify == "decode":
                read_audio(audio, SAMPLE_RATE)
        except AudioError as err:
            return BadFile(str(audio), transcript.id, str(err))
        return Row(
            id=transcript.id,
            duration=duration,
            wav=f"{DATA_ROOT}/{audio.relative_to(self.data_folder).as_posix()}",
            spk_id="-".join(transcript.id.split("-")[:2]),
            wrd=transcript.text,
        )

    def _report_bad(self, bad: list[BadFile], split: str, total: int) -> None:
        self.bad_log.record_all(bad)
        limit = tolerated(total, self.max_bad_fraction)
        if len(bad) > limit:
            examples = "\n".join(f"  {file.reason}" for file in bad[:5])
            raise TooManyBadFiles(
                f"{split}: {len(bad)} of {total} utterances are unusable, more than the {limit} "
                f"allowed by --max_bad_fraction {self.max_bad_fraction:g}:\n{examples}\n"
                f"All are listed in {self.bad_log.csv_path}: repair them, or raise "
                "--max_bad_fraction to go on without them"
            )


def _file_state(path: str | os.PathLike[str]) -> list[int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _stamp(csv_path: Path, fingerprint: dict[str, Any], bad: list[BadFile]) -> str:
    stamp = {
        "fingerprint": fingerprint,
        "csv_bytes": csv_path.stat().st_size,
        "bad": [{"file": asdict(file), "state": _file_state(file.path)} for file in bad],
    }
    return json.dumps(stamp, indent=1) + "\n"


def _bad_files_of_finished(
    csv_path: Path, stamp_path: Path, fingerprint: dict[str, Any]
) -> list[BadFile] | None:
    """The files left out of a finished split; ``None`` if it has to be prepared (again)."""
    try:
        stamp = json.loads(stamp_path.read_text(encoding="utf-8"))
        bad = [BadFile(**entry["file"]) for entry in stamp["bad"]]
        current = (
            stamp["fingerprint"] == fingerprint
            and stamp["csv_bytes"] == csv_path.stat().st_size
            and all(_file_state(entry["file"]["path"]) == entry["state"] for entry in stamp["bad"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return bad if current else None
