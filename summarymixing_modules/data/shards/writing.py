"""Writing the shards of a corpus: in threads, one shard in each, gone on with after a kill."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from summarymixing_modules.data.bad_audio import (
    FLAG,
    TEST_FLAG,
    BadAudioLog,
    BadFile,
    refuse_too_many,
)
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.labelled import write_annotations
from summarymixing_modules.data.manifest import Manifests, read_manifest, write_manifest
from summarymixing_modules.data.preparation import left_out, note_left_out
from summarymixing_modules.data.shards.folder import (
    DESCRIPTION,
    TRAIN,
    TRIALS,
    VALID,
    ShardError,
    ShardFolder,
    Split,
)
from summarymixing_modules.data.shards.job import PREPARATION, ShardJob, StoppedWriting
from summarymixing_modules.data.shards.plan import Layout, PlannedSplit, missing_room

logger = logging.getLogger(__name__)

_SETTINGS = "settings.json"
#: Names of other splits and files, which no test set can have.
_TAKEN = {TRAIN, VALID, PREPARATION, Path(DESCRIPTION).stem}


@dataclass(frozen=True)
class ShardWriting:
    """The shards of a corpus, as they are to be.

    Attributes:
        folder: to write to.
        corpus: name of the corpus.
        options: those it was prepared with.
        layout: of the shards.
        data_root: of the paths in its manifests.
        workers: threads.
        max_bad_fraction: part of a split that may be unusable.
        test_max_bad_fraction: part of a test set that may be.
        progress: show a bar.
    """

    folder: Path
    corpus: str
    options: Mapping[str, Any]
    layout: Layout
    data_root: Path
    workers: int = 8
    max_bad_fraction: float = 0.01
    test_max_bad_fraction: float = 0.0
    progress: bool = True

    def begin(self) -> None:
        """Note what is to be written; refuse a folder that holds anything else.

        Raises:
            ShardError: it holds other files, or shards of another corpus or of other settings.
        """
        settings = {"corpus": self.corpus, "options": self.options, "written": asdict(self.layout)}
        # Through JSON, as they are stored: tuples are lists there.
        wanted: dict[str, Any] = json.loads(json.dumps(settings))
        notes = self.folder / PREPARATION / _SETTINGS
        known = [file for file in (notes, self.folder / DESCRIPTION) if file.is_file()]
        if not known and self.folder.exists() and any(self.folder.iterdir()):
            raise ShardError(f"--shards={self.folder}: holds other files: give a new folder")
        for file in known:
            there = json.loads(file.read_text(encoding="utf-8"))
            if differing := "; ".join(_differences(there, wanted)):
                raise ShardError(
                    f"--shards={self.folder}: holds shards that were written otherwise: "
                    f"{differing}. Give the same flags, or another folder"
                )
        write_atomically(notes, json.dumps(wanted, indent=1) + "\n")

    def write(self, manifests: Manifests) -> ShardFolder:
        """Write everything; what is finished and unchanged is kept.

        Args:
            manifests: of the corpus.

        Raises:
            ShardError: a test set has a name that is taken, or the disk is too small.
            TooManyBadFiles: more of a split is unusable than is tolerated.
        """
        if taken := _TAKEN & {*manifests.test}:
            raise ShardError(f"a test set cannot be called {taken.pop()!r}: choose another name")
        paths = {TRAIN: manifests.train, VALID: manifests.valid, **manifests.test}
        splits = [PlannedSplit.of(n, p, self.data_root, self.layout) for n, p in paths.items()]
        self._require_room(splits)
        by_split = {
            split.name: [ShardJob(self.folder, split, n, p) for n, p in enumerate(split.shards())]
            for split in splits
        }
        jobs = [job for of_split in by_split.values() for job in of_split]
        self._write_all(jobs)
        found = {split.name: self._write_index(split, by_split[split.name]) for split in splits}
        if manifests.trials is not None:
            self._write_trials(manifests.trials, manifests.test)
        trials = manifests.trials is not None
        layout = asdict(self.layout)
        done = ShardFolder(self.folder, self.corpus, self.options, layout, found, trials)
        done.write()
        done.write_sums({job.name: job.note["sha256"] for job in jobs})
        return done

    def _require_room(self, splits: Sequence[PlannedSplit]) -> None:
        missing = missing_room(splits, self.folder, shutil.disk_usage(self.folder).free)
        if missing:
            raise ShardError(
                f"--shards={self.folder}: its disk lacks {missing:.1f} GB for the shards: make "
                "room, or give a folder on another disk"
            )

    def _write_all(self, jobs: Sequence[ShardJob]) -> None:
        for partial in self.folder.glob("*/.*.partial"):  # of one that was killed
            partial.unlink()
        total, stop = sum(len(job.places) for job in jobs), threading.Event()
        bar = tqdm(total=total, desc="shards", unit="utt", disable=None if self.progress else True)
        with bar, ThreadPoolExecutor(self.workers) as pool:
            made = [pool.submit(job.make, bar.update, stop) for job in jobs]
            try:
                for one in as_completed(made):
                    one.result()
            except BaseException:
                stop.set()  # otherwise Ctrl-C would wait for whole shards
                pool.shutdown(cancel_futures=True)
                failed = [one.exception() for one in made if one.done() and not one.cancelled()]
                real = [err for err in failed if err and not isinstance(err, StoppedWriting)]
                if real:
                    raise real[0] from None
                raise

    def _write_index(self, split: PlannedSplit, jobs: Iterable[ShardJob]) -> Split:
        """The manifest of finished shards, in the order of the corpus, and all beside it."""
        index = self.folder / f"{split.name}.csv"
        jobs = list(jobs)
        by_place = {place: row for job in jobs for place, row in job.rows().items()}
        rows = [by_place[place] for place in sorted(by_place)]
        before = left_out(split.manifest.path)
        bad = [*before, *(one for job in jobs for one in job.bad())]
        if len(bad) > len(before):
            self._refuse_too_many(split.name, bad, len(rows))
        if split.annotations:
            write_annotations(index, {row.id: split.annotations[row.id] for row in rows})
        note_left_out(index, bad)
        write_manifest(index, rows)
        hours = sum(row.duration for row in rows) / 3600
        sizes = {job.name: int(job.note["file"][0]) for job in jobs}
        logger.info(f"{split.name}: {len(rows)} utterances, {hours:.2f} h, {len(sizes)} shards")
        return Split(len(rows), hours, len(bad), sizes)

    def _refuse_too_many(self, name: str, bad: Sequence[BadFile], usable: int) -> None:
        log = BadAudioLog(self.folder / f"bad_{name}.csv")
        log.record_all(bad)
        train = name in (TRAIN, VALID)
        fraction = self.max_bad_fraction if train else self.test_max_bad_fraction
        flag = FLAG if train else TEST_FLAG
        total = usable + len(bad)
        refuse_too_many(bad, total, fraction, log.csv_path, where=f"{name}: ", flag=flag)

    def _write_trials(self, trials: Path, tests: Iterable[str]) -> None:
        """The trials whose recordings are there."""
        there = {row.id for name in tests for row in read_manifest(self.folder / f"{name}.csv")}
        lines = trials.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if there.issuperset(line.split()[1:])]
        write_atomically(self.folder / TRIALS, "".join(kept))


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """What was asked for before, and what is now."""
    for key, now in wanted.items():
        was = there.get(key)
        if isinstance(now, dict) and isinstance(was, dict):
            yield from _differences(was, now)
        elif was != now:
            yield f"--{key}={json.dumps(was)}, now {json.dumps(now)}"
