"""Which utterances say more than CTC can spell in their frames.

A CTC path has a frame for every token, and one more for a blank between two equal ones (Graves et
al., ICML 2006, §3.1). Where there are fewer frames, no path says the transcript: its probability is
0, its loss infinite, and what losses make of that is 0, without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.data.files import write_csv
from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.features.frontend import RUNNING
from summarymixing_modules.training.data.audio import with_train
from summarymixing_modules.training.data.transcribed import ASRData

if TYPE_CHECKING:
    from summarymixing_modules.training.brain import SafeBrain

logger = get_logger(__name__)

_FILE = "ctc_too_short.csv"


def spellable(
    brain: SafeBrain,
    data: ASRData,
    leave_out: bool,
    frames_of: Callable[[Tensor], Tensor] | None = None,
) -> ASRData:
    """The data of a training with CTC; utterances that it cannot spell are named.

    Adds ``ctc_too_short``, how many there are, to what the Brain reports.

    Args:
        brain: whose ``features`` and ``model`` make the frames.
        data: of the recipe.
        leave_out: of the training, where the loss is CTC's alone. Otherwise they stay: its part of
            the loss is 0 for them.
        frames_of: numbers of samples (N,) → frames of the encoder's output; None: the model's.
    """
    brain.extra["ctc_too_short"] = 0
    frames_of = frames_of or _encoder_frames(brain)
    if brain.test_only or frames_of is None:
        return data
    train = data.datasets.train
    samples_N = torch.from_numpy((train.durations * brain.hparams.sample_rate).round()).long()
    found = list(too_short_for_ctc(train, data.tokenizer, frames_of(samples_N).numpy()))
    brain.extra["ctc_too_short"] = len(found)
    if not found:
        return data
    report_too_short(found, len(train), leave_out, brain.output_folder)
    if not leave_out:
        return data
    kept = train.subset(np.delete(train.places, [utterance.index for utterance in found]))
    return with_train(data, kept, vars(brain.hparams))


def _encoder_frames(brain: SafeBrain) -> Callable[[Tensor], Tensor] | None:
    """Numbers of samples → frames of the encoder's output; None if nothing tells them."""
    lengths = getattr(getattr(brain.model, "frontend", None), "lengths", None)
    if lengths is None:
        logger.info("The front end tells no lengths: none is compared with the transcripts.")
        return None
    return lambda samples_N: lengths(brain.modules.features.frames(samples_N, RUNNING))


@dataclass(frozen=True)
class ShortUtterance:
    """An utterance that no CTC path can spell.

    Attributes:
        index: its place in the dataset.
        id: its name.
        seconds: how long it lasts.
        frames: of the encoder's output.
        needed: frames that its transcript takes at least.
    """

    index: int
    id: str
    seconds: float
    frames: int
    needed: int


def frames_needed(tokens: Sequence[object]) -> int:
    """Frames of the shortest CTC path of tokens, or of characters."""
    return len(tokens) + sum(one == other for one, other in pairwise(tokens))


def too_short_for_ctc(
    dataset: ManifestDataset, tokenizer: Tokenizer, frames_N: np.ndarray
) -> Iterator[ShortUtterance]:
    """The utterances of a dataset whose transcripts take more frames than they have.

    Args:
        dataset: with transcripts.
        tokenizer: makes tokens of them.
        frames_N: of the encoder's output, for every utterance.
    """
    frames_at = np.full(len(dataset.manifest), np.iinfo(np.int64).max)
    frames_at[dataset.places] = frames_N
    index_at = np.zeros(len(dataset.manifest), dtype=np.int64)
    index_at[dataset.places] = np.arange(len(dataset))
    for place, row in enumerate(dataset.manifest):  # in the order of the file, which is fast
        frames = int(frames_at[place])
        if _may_take(row.wrd) <= frames:
            continue
        needed = frames_needed(tokenizer.encode(row.wrd, row.id))
        if needed > frames:
            yield ShortUtterance(int(index_at[place]), row.id, row.duration, frames, needed)


def _may_take(text: str) -> float:
    """At least as many frames as a text takes, found without making tokens of it.

    A token of several characters takes no more frames than they would, if each were a token; and
    SentencePiece puts one more before the first. Other than ASCII it may replace by longer texts.
    """
    return 1 + frames_needed(text) if text.isascii() else float("inf")


def report_too_short(
    found: Sequence[ShortUtterance], of: int, left_out: bool, folder: Path | None
) -> None:
    """Say which utterances CTC cannot spell, and write all of them to ``ctc_too_short.csv``.

    Args:
        found: at least one.
        of: training utterances.
        left_out: of the training; otherwise they stay in it, for another part of the loss.
        folder: where to.

    Raises:
        InputError: they are all there is to train on.
    """
    if left_out and len(found) == of:
        raise InputError(
            f"all {of} training utterances have fewer frames than CTC takes for their transcripts, "
            f"such as {_shown(found[0])}: subsample less, or take longer tokens (--token_type)."
        )
    if folder is not None and if_main_process():
        rows = [(u.id, u.seconds, u.frames, u.needed) for u in found]
        write_csv(folder / _FILE, [("ID", "duration", "frames", "frames_needed"), *rows])
    fate = "left out of the training" if left_out else "kept, with a CTC loss of 0"
    shown = "; ".join(map(_shown, found[:5]))
    logger.warning(
        f"{len(found)} of {of} training utterances have fewer frames than CTC takes for their "
        f"transcripts, and are {fate}: {shown}{' …' if len(found) > 5 else ''}. All of them: "
        f"{_FILE}"
    )


def _shown(utterance: ShortUtterance) -> str:
    return (
        f"{utterance.id} ({utterance.seconds:.2f} s, {utterance.frames} frames, needs "
        f"{utterance.needed})"
    )
