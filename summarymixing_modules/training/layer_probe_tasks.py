"""The layer probes' tasks: speaker, content and emotion, on every hidden state of one encoder.

Shape suffixes: N hidden states, B batch, T frames, D features, S utterances, V vocabulary.
"""

from __future__ import annotations

import functools
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.decoders.ctc import ctc_greedy_decode
from torch import Tensor
from tqdm import tqdm

from summarymixing_modules.data.iemocap import CLASSES
from summarymixing_modules.data.manifest import Row
from summarymixing_modules.data.subset import speaker
from summarymixing_modules.data.tokenizers import BLANK_INDEX
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.probe import FrozenEncoder
from summarymixing_modules.training.error_rates import ErrorRate
from summarymixing_modules.training.layer_probe_data import (
    EmotionCorpus,
    LibriSpeechPart,
    Preparation,
    emotion_folds,
    split_speakers,
)
from summarymixing_modules.training.layer_states import StateBatch, alignable, encoded_batches
from summarymixing_modules.training.linear_probes import (
    CTCHeads,
    LogisticRegression,
    fit_logistic,
    frame_statistics,
    majority_accuracy,
    train_ctc_heads,
)

logger = logging.getLogger(__name__)

CONTENT_EPOCHS = 10


@dataclass(frozen=True)
class Settings:
    """How encoders are probed.

    Attributes:
        preparation: of the corpora.
        output_folder: where results go.
        content_epochs: of the CTC layers.
        batch_seconds: audio of a batch at most, padding included.
        device: where encoders and probes run.
        num_workers: processes that read audio.
    """

    preparation: Preparation
    output_folder: Path
    content_epochs: int = CONTENT_EPOCHS
    batch_seconds: float = 40.0
    device: str = "cpu"
    num_workers: int = 0

    @property
    def seed(self) -> int:
        """Of all draws."""
        return self.preparation.seed


@dataclass(frozen=True)
class Outcome:
    """What a task has found about an encoder.

    Attributes:
        figures: of every hidden state, in percent.
        chance: what is reached without the encoder, in percent.
        details: sizes of the sets and the like.
    """

    figures: Sequence[float]
    chance: float
    details: Mapping[str, Any]


class ProbedEncoder:
    """An encoder, and what it makes of the corpora: every utterance goes through it once.

    Args:
        encoder: is moved to the device.
        settings: of the probes.
        librispeech: None if no task needs it.
        emotions: None if no task needs it.
        keep_frames: whether a task needs frames of the training part of LibriSpeech.
        name: for progress bars.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        settings: Settings,
        librispeech: LibriSpeechPart | None,
        emotions: EmotionCorpus | None,
        keep_frames: bool,
        name: str,
    ) -> None:
        self.encoder, self.settings = encoder.to(settings.device), settings
        self._librispeech, self._emotions = librispeech, emotions
        self.keep_frames, self.name = keep_frames, name

    @property
    def librispeech(self) -> LibriSpeechPart:
        """The part of LibriSpeech."""
        assert self._librispeech is not None
        return self._librispeech

    @property
    def emotions(self) -> EmotionCorpus:
        """IEMOCAP."""
        assert self._emotions is not None
        return self._emotions

    def batches(self, dataset: DynamicItemDataset, what: str) -> Iterator[StateBatch]:
        """Hidden states of a dataset, batch by batch."""
        settings = self.settings
        return encoded_batches(
            self.encoder,
            dataset,
            settings.device,
            settings.batch_seconds,
            settings.num_workers,
            f"{self.name}, {what}",
        )

    @functools.cached_property
    def train_part(self) -> tuple[dict[str, Tensor], list[StateBatch]]:
        """Mean states (N, D) of the training part of LibriSpeech, and its frames if kept."""
        pooled: dict[str, Tensor] = {}
        frames: list[StateBatch] = []
        for batch in self.batches(self.librispeech.train, "train-clean-100"):
            pooled.update(zip(batch.ids, batch.pooled().cpu(), strict=True))
            if self.keep_frames:
                frames.append(batch.compact())
        return pooled, frames


def probe_speakers(probed: ProbedEncoder) -> Outcome:
    """Accuracy of a logistic regression on the mean of each state, utterances held out."""
    pooled, _ = probed.train_part
    rows: Mapping[str, Row] = {row.id: row for row in probed.librispeech.train_rows}
    split = split_speakers([rows[name] for name in pooled], probed.settings.seed)
    if split.left_out:
        logger.warning(
            "speaker: %d speakers with a single utterance are left out: %s (a larger --max_hours "
            "gives them more)",
            len(split.left_out),
            ", ".join(split.left_out),
        )
    names = sorted({speaker(rows[name]) for name in split.train})
    if len(names) < 2:
        raise InputError(
            f"--tasks speaker: {len(names)} speakers have two utterances or more, two are needed: "
            "raise --max_hours."
        )
    index = {name: number for number, name in enumerate(names)}
    sets = [
        (
            torch.stack([pooled[name] for name in part]),
            torch.tensor([index[speaker(rows[name])] for name in part]),
        )
        for part in (split.train, split.test)
    ]
    (train_SND, train_S), (test_SND, test_S) = sets
    figures, unfinished = [], []
    for layer in tqdm(range(train_SND.shape[1]), desc=f"{probed.name}, speaker", unit="state"):
        fit = fit_logistic(train_SND[:, layer].to(probed.settings.device), train_S, len(names))
        figures.append(fit.accuracy(test_SND[:, layer], test_S))
        unfinished += _unfinished(fit, f"state {layer}")
    details = {
        "speakers": len(names),
        "left_out": split.left_out,
        "train_utterances": len(train_S),
        "test_utterances": len(test_S),
        "speakers_split_by_chapter": split.by_chapter,
        "not_converged": unfinished,
    }
    return Outcome(figures, majority_accuracy(train_S, test_S), details)


def probe_emotions(probed: ProbedEncoder) -> Outcome:
    """Accuracy, mean over the folds, of a logistic regression on the mean of each state."""
    corpus = probed.emotions
    pooled: dict[str, Tensor] = {}
    for number, dataset in enumerate(corpus.parts, start=1):
        for batch in probed.batches(dataset, f"IEMOCAP {number}/{len(corpus.parts)}"):
            pooled.update(zip(batch.ids, batch.pooled().cpu(), strict=True))
    names = sorted(pooled)
    x_SND = torch.stack([pooled[name] for name in names])
    classes_S = torch.tensor([corpus.classes[name] for name in names])
    folds = emotion_folds(corpus, names)
    scores: list[list[float]] = []
    unfinished = []
    for layer in tqdm(range(x_SND.shape[1]), desc=f"{probed.name}, emotion", unit="state"):
        x_SD = x_SND[:, layer].to(probed.settings.device)
        scores.append([])
        for number, (train, test) in enumerate(folds, start=1):
            fit = fit_logistic(x_SD[train], classes_S[train], len(CLASSES))
            scores[-1].append(fit.accuracy(x_SD[test], classes_S[test]))
            unfinished += _unfinished(fit, f"state {layer}, fold {number}")
    chances = [majority_accuracy(classes_S[train], classes_S[test]) for train, test in folds]
    details = {
        "classes": list(CLASSES),
        "utterances": len(names),
        "utterances_of_class": classes_S.bincount(minlength=len(CLASSES)).tolist(),
        "fold_scores": scores,
        "fold_chances": chances,
        "not_converged": unfinished,
    }
    return Outcome([statistics.fmean(row) for row in scores], statistics.fmean(chances), details)


def _unfinished(fit: LogisticRegression, what: str) -> list[str]:
    if fit.converged:
        return []
    logger.warning("%s: the regression has not converged (gradient %.1e)", what, fit.gradient)
    return [what]


def probe_content(probed: ProbedEncoder) -> Outcome:
    """Character error rate of a linear CTC layer on each state, on test-clean."""
    settings = probed.settings
    _, frames = probed.train_part
    kept = [batch.select(alignable(batch)) for batch in frames]
    kept = [batch for batch in kept if batch.ids]
    total, trained = (sum(len(batch.ids) for batch in part) for part in (frames, kept))
    if not trained:
        raise InputError(
            f"--tasks content: no utterance has as many frames as characters: {probed.name} gives "
            "too few frames a second for CTC on characters. Leave this task out."
        )
    mean_ND, deviation_ND = frame_statistics(kept)
    vocabulary = probed.librispeech.tokenizer.vocab_size
    heads = CTCHeads(mean_ND, deviation_ND, vocabulary).to(settings.device)
    epochs = settings.content_epochs
    with tqdm(total=epochs * len(kept), desc=f"{probed.name}, content", unit="step") as bar:

        def show(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.2f}")
            bar.update()

        train_ctc_heads(heads, kept, epochs, settings.seed, show)
    figures = _character_error_rates(probed, heads)
    details = {
        "train_utterances": trained,
        "train_hours": sum(row.duration for row in probed.librispeech.train_rows) / 3600,
        "test_utterances": len(probed.librispeech.test_rows),
        "test_hours": sum(row.duration for row in probed.librispeech.test_rows) / 3600,
        "too_short_to_train_on": total - trained,
        "steps": epochs * len(kept),
    }
    return Outcome(figures, 100.0, details)


@torch.no_grad()
def _character_error_rates(probed: ProbedEncoder, heads: CTCHeads) -> list[float]:
    tokenizer = probed.librispeech.tokenizer
    rates = [ErrorRate() for _ in range(len(heads.mean_ND))]
    for batch in probed.batches(probed.librispeech.test, "test-clean"):
        log_probs_NBTV = heads(batch.states_NBTD)
        share_B = batch.lengths_B / log_probs_NBTV.shape[2]
        for of_head, log_probs_BTV in zip(rates, log_probs_NBTV, strict=True):
            rows = ctc_greedy_decode(log_probs_BTV, share_B, blank_id=BLANK_INDEX)
            for row, text in zip(rows, batch.texts, strict=True):
                of_head.append(tokenizer.decode(row).strip(), text)
    return [of_head.percent for of_head in rates]


#: In the order in which they are done.
TASKS: dict[str, Callable[[ProbedEncoder], Outcome]] = {
    "speaker": probe_speakers,
    "content": probe_content,
    "emotion": probe_emotions,
}
