"""Text for language models: lines in one file with an index, in any order, without loading them.

Forty million lines (LibriSpeech's LM text) are 4 GB as a file, and far more as Python objects. So
they are written once, cleaned, into ``lines.txt``, and where each starts into ``offsets.npy``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import os
import shutil
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from speechbrain.utils.logger import get_logger
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from summarymixing_modules.data.files import sync_to_disk
from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, TextError, Tokenizer

logger = get_logger(__name__)

_LINES, _OFFSETS, _ABOUT = "lines.txt", "offsets.npy", "about.json"
#: Raise it whenever the same sources give other lines.
_VERSION = 1


class LineStore:
    """Lines of text on disk.

    Args:
        folder: that `build_line_store` filled.

    Attributes:
        about: number of lines, characters that occur, and where the text came from.
        offsets: where each line starts in the file, and where the last ends; bytes.

    Raises:
        TextError: the folder holds no finished store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            self.offsets = np.load(folder / _OFFSETS, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise TextError(f"{folder}: holds no lines of text ({error}): delete it") from error
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)}")
        if self._map is None:  # opened by every worker for itself
            with (self.folder / _LINES).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self._map[start : end - 1].decode()

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned worker gets: the folder."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        LineStore.__init__(self, state["folder"])

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of every line."""
        return np.diff(self.offsets) - 1


def build_line_store(
    folder: Path,
    files: Sequence[str | os.PathLike[str]] = (),
    lines: Iterable[str] = (),
    max_line_length: int = 1000,
    progress: bool = True,
) -> LineStore:
    """Collect lines of text, or take those that an earlier call collected from the same sources.

    White space is reduced to single spaces; empty lines are left out, and so are those that are too
    long, which is logged. In a distributed run, call it on the main process first
    (``run_on_main``).

    Args:
        folder: where to keep them; made, or replaced when the sources have changed.
        files: text in UTF-8, a sentence a line; ``.gz`` is read as it is.
        lines: more lines, such as the transcripts of a corpus.
        max_line_length: characters of a line at most.
        progress: show a progress bar.

    Raises:
        TextError: a file is missing, damaged or no UTF-8, or no line is left.
    """
    paths, lines = [Path(file) for file in files], list(lines)
    for path in paths:
        if not path.is_file():
            raise TextError(f"{path}: no such file: give text files, plain or .gz")
    source = _fingerprint(paths, lines, max_line_length)
    about = folder / _ABOUT
    if about.is_file() and json.loads(about.read_text(encoding="utf-8"))["source"] == source:
        return LineStore(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, paths, lines, max_line_length, progress, source)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return LineStore(folder)


def _fingerprint(paths: Sequence[Path], lines: Sequence[str], max_line_length: int) -> list[Any]:
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return [_VERSION, [list(state) for state in states], digest, max_line_length]


def _write(
    folder: Path,
    paths: Sequence[Path],
    lines: Sequence[str],
    max_line_length: int,
    progress: bool,
    source: list[Any],
) -> None:
    """Writes lines, offsets and, last, what they are."""
    offsets, characters, too_long = array("q", [0]), set[str](), 0
    with (folder / _LINES).open("wb") as out:
        for raw in _all_lines(paths, lines, progress):
            line = " ".join(raw.split())
            if len(line) > max_line_length:
                too_long += 1
            elif line:
                out.write(line.encode() + b"\n")
                offsets.append(out.tell())
                characters.update(line)
    if len(offsets) == 1:
        named = ", ".join(map(str, paths)) or "the transcripts"
        raise TextError(f"{named}: no line of text of at most {max_line_length} characters in it")
    if too_long:
        logger.info(f"{too_long} lines of more than {max_line_length} characters are left out.")
    np.save(folder / _OFFSETS, np.frombuffer(offsets, dtype=np.int64))
    about = {
        "source": source,
        "lines": len(offsets) - 1,
        "too_long": too_long,
        "characters": "".join(sorted(characters)),
    }
    (folder / _ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
    for name in (_LINES, _OFFSETS, _ABOUT):
        sync_to_disk(folder / name)


def _all_lines(paths: Sequence[Path], lines: Sequence[str], progress: bool) -> Iterator[str]:
    yield from lines
    for path in paths:
        with (
            path.open("rb") as file,
            tqdm(
                total=path.stat().st_size,
                desc=path.name,
                unit="B",
                unit_scale=True,
                disable=None if progress else True,
            ) as bar,
        ):
            yield from _decoded(path, file, bar)


def _decoded(path: Path, file: BinaryIO, bar: tqdm) -> Iterator[str]:
    """The lines of an open file; the bar follows the bytes on disk."""
    try:
        stream = gzip.open(file) if path.suffix == ".gz" else file
        for number, line in enumerate(stream):
            yield line.decode("utf-8" if number else "utf-8-sig")
            if number % 1000 == 0:
                bar.update(file.tell() - bar.n)
        bar.update(file.tell() - bar.n)
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: line {number + 1} is not UTF-8 ({error}): convert it") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TextError(f"{path}: is damaged ({error}): get the file again") from error


class LineDataset(Dataset):
    """Lines as tokens: ``id``, ``tokens_bos`` and ``tokens_eos`` (U+1,).

    Where the tokenizer has no marks, index 0 stands for the begin mark, and for the end mark, which
    nothing is to predict.

    Args:
        lines: where they are.
        tokenizer: of the recogniser.
        name: for the ids.

    Raises:
        TextError: the tokenizer cannot express a character of the text.
    """

    def __init__(self, lines: LineStore, tokenizer: Tokenizer, name: str) -> None:
        unknown = tokenizer.unknown_characters(lines.about["characters"])
        if unknown:
            listed = ", ".join(repr(character) for character in unknown)
            raise TextError(
                f"{name}: the text holds {listed}, for which the tokenizer has no token, only for "
                f"{tokenizer.characters()!r}: normalise the text (LibriSpeech's is in capitals)"
            )
        self.lines, self.tokenizer, self.name = lines, tokenizer, name
        self._bos = [tokenizer.bos_index or BLANK_INDEX]
        self._eos = [tokenizer.eos_index or BLANK_INDEX]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # All characters are known: `encode` would look at them again, line by line.
        tokens = self.tokenizer._encode(self.lines[int(index)])
        return {
            "id": f"{self.name}:{index}",
            "tokens_bos": torch.tensor(self._bos + tokens),
            "tokens_eos": torch.tensor(tokens + self._eos),
        }


class LineBatchSampler(Sampler[np.ndarray]):
    """Batches of lines of similar length, in an order that depends on seed and epoch alone.

    Lines are shuffled, sorted by length within pools of ``pool`` batches and cut into batches; then
    these are shuffled. Indices stay in arrays: forty million of them are 0.3 GB.

    Args:
        lengths: of the lines.
        batch_size: lines of a batch.
        seed: of the order.
        pool: batches; more pad less and mix less.

    Raises:
        ValueError: a batch of no line.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, pool: int = 100) -> None:
        if batch_size < 1 or pool < 1:
            raise ValueError(f"--batch_size {batch_size} and pool {pool}: use at least 1")
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        width = self.batch_size * self.pool
        for start in range(0, len(order), width):
            part = order[start : start + width]
            order[start : start + width] = part[np.argsort(self.lengths[part], kind="stable")]
        for batch in generator.permutation(len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]
