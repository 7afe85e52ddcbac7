"""A synthetic corpus in LibriSpeech's layout, made on the spot by espeak-ng.

It lets every speech recognition recipe run, and learn, without a download: real audio files, a
vocabulary of several hundred words, dozens of voices, and dev and test sets whose voices and
sentences are not in the training set. Its error rates say nothing about human speech.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from summarymixing_modules.data.audio import SAMPLE_RATE
from summarymixing_modules.data.demo.espeak import EspeakError
from summarymixing_modules.data.demo.grammar import make_sentences
from summarymixing_modules.data.demo.speech import (
    Utterance,
    cast,
    split_variants,
    write_utterance,
)
from summarymixing_modules.errors import InputError

logger = logging.getLogger(__name__)

#: Raise it whenever sentences, voices or mixing change, so that cached trees are made anew.
CORPUS_VERSION = 1
#: Sentences of the sets that are not trained on, of those that are.
SHARES = {"dev-clean": 0.06, "test-clean": 0.08}
_STAMP = "demo.json"
_README = """SYNTHETIC SPEECH - NOT LIBRISPEECH

This tree has the layout of LibriSpeech, but nobody recorded it: espeak-ng, a speech synthesiser,
reads sentences drawn from a small grammar, with light artificial noise. It exists so that recipes
can be tried and tested without a download. Error rates on it say nothing about human speech and
must not be compared with published results. Voices and sentences of train-clean-100, dev-clean and
test-clean do not overlap. demo.json holds the settings that made it.
"""


class DemoCorpusError(InputError):
    """The demo corpus cannot be made in the folder asked for."""


@dataclass(frozen=True)
class DemoCorpusInfo:
    """What a demo corpus holds.

    Attributes:
        folder: the folder asked for; give it to a recipe as ``--data_folder``.
        librispeech: ``folder/LibriSpeech``.
        utterances: number of utterances of each split.
        hours: hours of audio of each split.
        voices: number of voice variants of each split.
        vocabulary: number of distinct words over all splits.
        sentences: number of distinct sentences over all splits.
        seconds: what making it took, s.
        reused: the tree was there already, with the same settings.
        synthetic: always true.
    """

    folder: Path
    librispeech: Path
    utterances: dict[str, int]
    hours: dict[str, float]
    voices: dict[str, int]
    vocabulary: int
    sentences: int
    seconds: float
    reused: bool = False
    synthetic: bool = True

    def __str__(self) -> str:
        splits = ", ".join(
            f"{split} {count} utterances {self.hours[split]:.2f} h"
            for split, count in self.utterances.items()
        )
        return (
            f"SYNTHETIC demo corpus (espeak-ng, not human speech) in {self.librispeech}: {splits};"
            f" {self.vocabulary} words, {self.sentences} sentences"
        )


def make_demo_corpus(
    folder: str | os.PathLike[str],
    train_sentences: int = 3750,
    dev_sentences: int | None = None,
    test_sentences: int | None = None,
    seed: int = 1234,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> DemoCorpusInfo:
    """Make, or find, a synthetic corpus in LibriSpeech's layout under ``folder/LibriSpeech``.

    The same sizes and seed give the same files to the bit, whatever ``workers`` is. A finished tree
    with the same settings is reused; one with other settings is replaced once the new tree is
    complete. A folder that is not a demo corpus is never touched. A sentence lasts about 2.4 s.

    Args:
        folder: where to put ``LibriSpeech``.
        train_sentences: size of train-clean-100 (the default is about 2.5 h).
        dev_sentences: size of dev-clean; None: 6 % of the training set's, at least 1.
        test_sentences: size of test-clean; None: 8 %, likewise.
        seed: draws sentences, speakers' pitch and rate, noise.
        workers: processes; ``None`` is one for each CPU core that this process may use.
        overwrite: make it again even if a tree with the same settings is there.
        progress: show a progress bar.

    Returns:
        What was made or found.

    Raises:
        DemoCorpusError: ``folder/LibriSpeech`` is something else, or a size is below 1.
        EspeakError: espeakng-loader is not installed.
    """
    held_out = {"dev-clean": dev_sentences, "test-clean": test_sentences}
    sizes = {
        split: max(1, round(SHARES[split] * train_sentences)) if count is None else count
        for split, count in held_out.items()
    }
    sizes["train-clean-100"] = train_sentences
    for split, count in sizes.items():
        if count < 1:
            raise DemoCorpusError(f"{split}: asked for {count} sentences, use at least 1")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    settings = {**_versions(), "seed": seed, "sentences": sizes}
    with FileLock(root / ".demo_corpus.lock"):
        found = None if overwrite else _find_finished(root, settings)
        if found is None:
            _check_replaceable(root / "LibriSpeech")
            found = _build(root, settings, workers, progress)
    logger.info("%s %s", "Reusing" if found.reused else "Made", found)
    return found


def _versions() -> dict[str, Any]:
    try:
        espeak = metadata.version("espeakng-loader")
    except metadata.PackageNotFoundError as err:
        raise EspeakError(
            "the synthetic demo corpus needs espeak-ng: pip install espeakng-loader"
        ) from err
    return {"version": CORPUS_VERSION, "espeakng-loader": espeak}


def _find_finished(root: Path, settings: Mapping[str, Any]) -> DemoCorpusInfo | None:
    """The tree under ``root`` if it is whole and made with these settings."""
    librispeech = root / "LibriSpeech"
    try:
        stamp = json.loads((librispeech / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if stamp.get("settings") != settings:
        return None
    whole = all(
        sum(1 for _ in librispeech.glob(f"{split}/*/*/*.flac")) == count
        for split, count in settings["sentences"].items()
    )
    if not whole:
        logger.warning("The demo corpus in %s has lost files: making it again", librispeech)
        return None
    return DemoCorpusInfo(root, librispeech, **stamp["contents"], reused=True)


def _check_replaceable(librispeech: Path) -> None:
    """Refuse to replace anything that this module did not write."""
    if not librispeech.exists():
        return
    remedy = "give another folder, or move it away yourself"
    is_demo = (librispeech / _STAMP).is_file()
    if not librispeech.is_dir() or (any(librispeech.iterdir()) and not is_demo):
        raise DemoCorpusError(f"{librispeech} exists and is not a demo corpus: {remedy}")
    ours = {_STAMP, "README.TXT", *split_variants()}
    foreign = sorted(path.name for path in librispeech.iterdir() if path.name not in ours)
    if foreign:
        raise DemoCorpusError(
            f"{librispeech} is a demo corpus to be replaced, but also holds {', '.join(foreign)},"
            f" which would be lost: {remedy}"
        )


def _build(
    root: Path, settings: Mapping[str, Any], workers: int | None, progress: bool
) -> DemoCorpusInfo:
    """Write a whole tree beside the final place, then swap it in."""
    start = time.perf_counter()
    tree = root / ".LibriSpeech.partial"
    # Only a killed run leaves one behind, and the lock says that no other run is using it.
    shutil.rmtree(tree, ignore_errors=True)
    splits = _cast_splits(settings["sentences"], settings["seed"])
    for split, utterances in splits.items():
        _write_transcripts(tree / split, utterances)
    frames = _write_audio(tree, splits, settings["seed"], workers, progress)
    (tree / "README.TXT").write_text(_README, encoding="utf-8")
    contents = {**_contents(splits, frames), "seconds": round(time.perf_counter() - start, 2)}
    stamp = {"synthetic": True, "settings": settings, "contents": contents}
    (tree / _STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    _swap_in(tree, root / "LibriSpeech")
    return DemoCorpusInfo(root, root / "LibriSpeech", **contents)


def _cast_splits(sizes: Mapping[str, int], seed: int) -> dict[str, list[Utterance]]:
    """Cut one list of distinct sentences into the splits, and give each its own voices."""
    sentences = iter(make_sentences(sum(sizes.values()), seed))
    variants = split_variants()
    return {
        split: cast(list(islice(sentences, count)), variants[split], seed)
        for split, count in sizes.items()
    }


def _write_transcripts(split_folder: Path, utterances: Sequence[Utterance]) -> None:
    """Make the folders of a split and their ``SPEAKER-CHAPTER.trans.txt`` files."""
    for folder, chapter in groupby(utterances, key=lambda utterance: utterance.folder):
        lines = [f"{utterance.identifier} {utterance.sentence.text}\n" for utterance in chapter]
        path = split_folder / folder
        path.mkdir(parents=True)
        name = "-".join(folder.parts) + ".trans.txt"
        (path / name).write_text("".join(lines), encoding="utf-8")


def _write_audio(
    tree: Path,
    splits: Mapping[str, Sequence[Utterance]],
    seed: int,
    workers: int | None,
    progress: bool,
) -> dict[str, int]:
    """Render every utterance; returns the number of samples of each utterance id."""
    jobs = [(tree / split, utterance) for split, all_ in splits.items() for utterance in all_]
    folders, utterances = zip(*jobs, strict=True)
    bar = tqdm(
        total=len(jobs),
        desc="synthetic demo corpus",
        unit="utt",
        disable=None if progress else True,
    )
    frames = {}
    # espeak-ng is not thread-safe: processes. "fork" spares each of them the imports.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    with bar, ProcessPoolExecutor(workers or _available_cores(), mp_context=context) as pool:
        lengths = pool.map(partial(write_utterance, seed=seed), utterances, folders, chunksize=16)
        for utterance, length in zip(utterances, lengths, strict=True):
            frames[utterance.identifier] = length
            bar.update()
    return frames


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _contents(
    splits: Mapping[str, Sequence[Utterance]], frames: Mapping[str, int]
) -> dict[str, Any]:
    """The counted fields of `DemoCorpusInfo`."""
    texts = {u.sentence.text for utterances in splits.values() for u in utterances}
    return {
        "utterances": {split: len(utterances) for split, utterances in splits.items()},
        "hours": {
            split: round(sum(frames[u.identifier] for u in utterances) / SAMPLE_RATE / 3600, 4)
            for split, utterances in splits.items()
        },
        "voices": {
            split: len({u.speaker.variant for u in utterances})
            for split, utterances in splits.items()
        },
        "vocabulary": len({word for text in texts for word in text.split()}),
        "sentences": len(texts),
    }


def _swap_in(tree: Path, librispeech: Path) -> None:
    """Put the finished tree in place; what was there (ours, checked before) goes last."""
    old = librispeech.with_name(".LibriSpeech.old")
    shutil.rmtree(old, ignore_errors=True)
    if librispeech.exists():
        librispeech.rename(old)
    tree.rename(librispeech)
    shutil.rmtree(old, ignore_errors=True)
