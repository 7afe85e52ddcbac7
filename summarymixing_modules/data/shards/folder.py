"""A folder of shards: what it holds, and whether it is whole.

    shards.json      of which corpus, prepared with which options, written how; sizes of all shards
    SHA256SUMS       of everything, for ``sha256sum -c``
    train.csv        the manifest, in the order of the corpus; train.jsonl: its annotations, and
                     train.json: what could not be used, where there is any
    train/000000.tar and so on
    valid.csv, …     likewise, and for every test set
    trials.txt       pairs to verify, of corpora that have some
    preparation/     what the writer needs to go on; nobody else does

Paths in it are relative to it: it may be moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.labelled import annotations_of
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.data.threads import in_threads
from summarymixing_modules.errors import InputError

DESCRIPTION, SUMS, TRIALS = "shards.json", "SHA256SUMS", "trials.txt"
TRAIN, VALID = "train", "valid"
#: Raise it whenever older shards cannot be read any more.
VERSION = 1
_AGAIN = "Copy it again, or give the `summarymixing shard` command that wrote it again"
_SHOWN = 5  # problems in a message


class ShardError(InputError):
    """A folder of shards cannot be used, or not so; the message tells the remedy."""


@dataclass(frozen=True)
class Split:
    """What a folder has of a split.

    Attributes:
        utterances: how many.
        hours: of them.
        left_out: how many could not be used.
        shards: file in the folder → bytes.
    """

    utterances: int
    hours: float
    left_out: int
    shards: Mapping[str, int]


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards and its description.

    Attributes:
        path: of the folder.
        corpus: name of the corpus.
        options: those it was prepared with.
        written: how: ``shard_size``, ``audio``, ``keep_order``, ``shard_seed``.
        splits: `TRAIN`, `VALID`, and every test set.
        trials: it has a list of trials.
    """

    path: Path
    corpus: str
    options: Mapping[str, Any]
    written: Mapping[str, Any]
    splits: Mapping[str, Split]
    trials: bool = False

    @classmethod
    def read(cls, path: Path) -> ShardFolder:
        """The description of a folder.

        Raises:
            ShardError: it is no folder of shards, or not finished, or of another version.
        """
        file = path / DESCRIPTION
        if not path.is_dir():
            raise ShardError(f"--shards={path}: there is no such folder")
        if not file.is_file():
            raise ShardError(
                f"--shards={path}: has no {DESCRIPTION}: it is no folder of shards, or not "
                "finished: give the folder of a `summarymixing shard` command, which goes on where "
                "it was stopped if it is given again"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            version = content.pop("version")
            splits = {name: Split(**split) for name, split in content.pop("splits").items()}
            folder = cls(path, splits=splits, **content) if version == VERSION else None
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise ShardError(f"{file}: is not what was written. {_AGAIN}") from err
        if folder is None:
            raise ShardError(
                f"{file}: is of version {version}, and this package reads {VERSION}: write the "
                "shards again, or use the package that wrote them"
            )
        return folder

    def write(self) -> None:
        """Write the description, which declares the folder finished."""
        content = {"version": VERSION, **asdict(self)}
        del content["path"]
        write_atomically(self.path / DESCRIPTION, json.dumps(content, indent=1) + "\n")

    @property
    def tests(self) -> list[str]:
        """The names of the test sets."""
        return [name for name in self.splits if name not in (TRAIN, VALID)]

    @property
    def small_files(self) -> list[Path]:
        """What lies beside the shards: manifests and their company, as far as there is any."""
        manifests = [self.path / f"{name}.csv" for name in self.splits]
        beside = [p for m in manifests for p in (annotations_of(m), m.with_suffix(".json"))]
        return [*manifests, *(p for p in (*beside, self.path / TRIALS) if p.is_file())]

    @cached_property
    def sums(self) -> dict[str, str]:
        """File → SHA-256.

        Raises:
            ShardError: there is no list of them.
        """
        file = self.path / SUMS
        if not file.is_file():
            raise ShardError(f"{file}: is missing. {_AGAIN}")
        lines = file.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}

    def write_sums(self, of_shards: Mapping[str, str]) -> None:
        """Write the list of sums, those of the shards as given."""
        files = [self.path / DESCRIPTION, *self.small_files]
        sums = {str(file.relative_to(self.path)): _sum_of(file) for file in files}
        sums |= of_shards
        write_atomically(self.path / SUMS, "".join(f"{d}  {n}\n" for n, d in sums.items()))

    def check(self) -> None:
        """Look whether every file is there and has its size, and small ones their content.

        Raises:
            ShardError: names those that are or have not.
        """
        found = [problem for split in self.splits.values() for problem in self._sizes(split)]
        small = [DESCRIPTION, *(str(path.relative_to(self.path)) for path in self.small_files)]
        listed = [name for name in self.sums if not name.endswith(".tar")]
        for name in dict.fromkeys((*listed, *small)):
            if problem := self._compared(name):
                found.append(problem)
        self._refuse(found)

    def verify(self, workers: int = 4, progress: bool = True) -> None:
        """Read everything, and compare it with its sums.

        Args:
            workers: threads.
            progress: show a bar.

        Raises:
            ShardError: names the files that are not what was written.
        """
        self.check()
        names = [name for split in self.splits.values() for name in split.shards]
        compared = in_threads(self._compared, names, workers, "verified", "shard", progress)
        self._refuse([problem for problem in compared if problem])

    def install(self, save_folder: Path) -> Manifests:
        """Put the manifests where a preparation of the corpus would; what is there stays.

        Args:
            save_folder: of a run.

        Raises:
            ShardError: see `check`.
        """
        self.check()
        for file in self.small_files:
            target, content = save_folder / file.name, file.read_bytes()
            if not target.is_file() or target.read_bytes() != content:
                write_atomically(target, content)
        return self.manifests(save_folder)

    def manifests(self, save_folder: Path) -> Manifests:
        """Where `install` puts them."""
        train, valid, *tests = (save_folder / f"{name}.csv" for name in (TRAIN, VALID, *self.tests))
        trials = save_folder / TRIALS if self.trials else None
        return Manifests(train, valid, dict(zip(self.tests, tests, strict=True)), trials)

    def _sizes(self, split: Split) -> list[str]:
        found = []
        for name, size in split.shards.items():
            file = self.path / name
            there = file.stat().st_size if file.is_file() else None
            if there is None:
                found.append(f"{file}: is missing")
            elif there != size:
                found.append(f"{file}: has {there} bytes, not {size}")
        return found

    def _compared(self, name: str) -> str:
        """What is wrong with a file by its sum; empty if nothing is."""
        file = self.path / name
        if not file.is_file():
            return f"{file}: is missing"
        if name not in self.sums:
            return f"{file}: is not in {SUMS}"
        return "" if _sum_of(file) == self.sums[name] else f"{file}: has another content"

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
            more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise ShardError(
                f"--shards={self.path} is not what was written:{shown}{more}\n{_AGAIN}; "
                "`summarymixing shard --verify` compares every byte"
            )


def _sum_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
