"""What was said in a recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from summarymixing_modules.inference.decoding import Word


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        path: of the file; empty for samples.
        duration: seconds.
        text: all that was said.
        words: with their times.
    """

    path: Path
    duration: float
    text: str
    words: list[Word]
