"""Files through a model on the command line: a bar, results as they come, what was not readable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.inference.audio import total_seconds
from summarymixing_modules.inference.classifier import Classification
from summarymixing_modules.inference.decoding import Transcript

BAR = "{desc}: {percentage:3.0f} %|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"


Result = TypeVar("Result", Transcript, Classification)
#: (files, told of each that cannot be read, told of seconds that are done) → results in order
Work = Callable[
    [Sequence[Path], Callable[[Path, AudioError], None], Callable[[float], None]], Iterator[Result]
]


def run_over_files(
    files: Sequence[Path], work: Work[Result], consume: Callable[[Result], None], done: str
) -> int:
    """Runs a model over files, with a bar of the seconds of audio.

    Args:
        files: audio files.
        work: the model.
        consume: writes a result, to the screen or a file.
        done: what was done and where, for the last line, such as "transcribed on cpu".

    Returns:
        1 if a file could not be read (each is told at the end), else 0.
    """
    bad: list[AudioError] = []
    audio, started = 0.0, time.perf_counter()
    with tqdm(total=total_seconds(files), bar_format=BAR, desc="audio") as bar:
        # Headers of compressed files estimate their length.
        progress = lambda seconds: bar.update(min(seconds, bar.total - bar.n))  # noqa: E731
        for result in work(files, lambda _, error: bad.append(error), progress):
            audio += result.duration
            with bar.external_write_mode(sys.stdout):
                consume(result)
                sys.stdout.flush()
    seconds = time.perf_counter() - started
    factor = seconds / audio if audio else float("nan")
    print(
        f"{len(files) - len(bad)} file(s), {audio:.1f} s of audio, {done} in {seconds:.1f} s: "
        f"real-time factor {factor:.4f}",
        file=sys.stderr,
    )
    for error in bad:
        print(f"error: {error}", file=sys.stderr)
    return 1 if bad else 0
