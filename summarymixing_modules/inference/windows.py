"""Long recordings in windows, cut where they are quietest.

A mixer of linear cost could take hours at once, but the front end's activations of an hour take
tens of gigabytes, and no model was trained on such lengths.

Shape suffixes: L samples, T short frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

#: A cut is looked for in this last part of a window.
SEARCHED_PART = 0.5
#: The stretch that should be quiet, and the step in which it is moved, seconds.
PAUSE_SECONDS, STEP_SECONDS = 0.2, 0.01


class Window(NamedTuple):
    """A part of a recording.

    Attributes:
        start: its first sample.
        samples_L: its audio.
    """

    start: int
    samples_L: Tensor


def cut_windows(
    blocks_L: Iterable[Tensor], sample_rate: int, window_seconds: float
) -> Iterator[Window]:
    """Cuts a stream of audio into windows that together are all of it.

    Args:
        blocks_L: the audio.
        sample_rate: its rate, Hz.
        window_seconds: the longest window. A shorter recording is one window.
    """
    longest = int(window_seconds * sample_rate)
    start, rest_L = 0, torch.zeros(0)
    for block_L in blocks_L:
        rest_L = torch.cat([rest_L, block_L])
        while len(rest_L) > longest:
            cut = _quietest(rest_L[:longest], sample_rate)
            yield Window(start, rest_L[:cut])
            start, rest_L = start + cut, rest_L[cut:]
    if len(rest_L):
        yield Window(start, rest_L)


def _quietest(samples_L: Tensor, sample_rate: int) -> int:
    """The middle of the stretch of least energy in the last part of a window; at least 1."""
    step = max(1, int(STEP_SECONDS * sample_rate))
    frames = max(1, round(PAUSE_SECONDS / STEP_SECONDS))
    first = int(len(samples_L) * (1 - SEARCHED_PART))
    searched_L = samples_L[first:]
    steps = len(searched_L) // step
    if steps < frames:
        return len(samples_L)
    energy_T = searched_L[: steps * step].view(steps, step).square().sum(dim=1)
    pause_T = energy_T.unfold(0, frames, 1).sum(dim=1)
    return first + (int(pause_T.argmin()) * step + frames * step // 2)
