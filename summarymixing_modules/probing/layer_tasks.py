"""The layer probes' tasks: speaker, content and emotion, asked of every hidden state.

Shape suffixes: N hidden states, D features, S utterances, B batch, T frames, V vocabulary.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.utils.metric_stats import ErrorRateStats
from torch import Tensor
from tqdm import tqdm

from summarymixing_modules.data.corpora.iemocap import CLASSES, FOLDS, speakers_of_fold
from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.layer_data import (
    TEST_SET,
    TOKENIZER,
    TRAIN_SET,
    Corpora,
    split_speakers,
)
from summarymixing_modules.probing.linear_probes import (
    CTCHeads,
    fit_logistic,
    frame_statistics,
    majority_accuracy,
    train_ctc_heads,
)
from summarymixing_modules.probing.states import ProbedEncoder

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """Figures of every hidden state, and what is reached without the encoder, in percent."""

    figures: list[float]
    chance: float
    details: dict[str, Any]


def probe_speakers(probed: ProbedEncoder) -> Outcome:
    """Accuracy of a logistic regression on the mean of each state, utterances held out."""
    pooled, _ = probed.train_set
    chapters = probed.corpora.librispeech.speakers
    split = split_speakers({name: chapters[name] for name in pooled}, probed.settings.seed)
    if split.left_out:
        logger.warning(
            "speaker: %d speakers with a single utterance are left out: %s (a larger --max_hours "
            "gives them more)",
            len(split.left_out),
            ", ".join(split.left_out),
        )
    speakers = sorted(set(split.train.values()))
    if len(speakers) < 2:
        raise InputError(
            f"--tasks speaker: {len(speakers)} speakers have two utterances or more, two are "
            "needed: raise --max_hours."
        )
    train, both = len(split.train), {**split.train, **split.test}
    outcome = _logistic_probes(
        f"{probed.name}, speaker",
        torch.stack([pooled[name] for name in both]).to(probed.settings.device),
        torch.tensor([speakers.index(name) for name in both.values()]),
        [([*range(train)], [*range(train, len(both))])],
    )
    details = {
        "speakers": len(speakers),
        "left_out": split.left_out,
        "train_utterances": train,
        "test_utterances": len(split.test),
        "speakers_split_by_chapter": split.by_chapter,
        "not_converged": outcome.details["not_converged"],
    }
    return outcome._replace(details=details)


def probe_emotions(probed: ProbedEncoder) -> Outcome:
    """Accuracy, mean over the folds, of a logistic regression on the mean of each state.

    A fold trains on eight speakers and tests one; the other speaker of the tested session, on whom
    other probes validate, is not used.
    """
    corpus = probed.corpora.iemocap
    pooled: dict[str, Tensor] = {}
    for part in corpus.sets:
        for batch in probed.batches(corpus, part):
            pooled |= batch.pooled()
    names = sorted(pooled)
    speakers = [corpus.speakers[name] for name in names]
    classes_S = torch.tensor([corpus.emotions[name] for name in names])
    folds = [
        (
            [index for index, speaker in enumerate(speakers) if speaker in train],
            [index for index, speaker in enumerate(speakers) if speaker in test],
        )
        for train, _, test in map(speakers_of_fold, FOLDS)
    ]
    x_SND = torch.stack([pooled[name] for name in names]).to(probed.settings.device)
    outcome = _logistic_probes(f"{probed.name}, emotion", x_SND, classes_S, folds)
    details = {
        "classes": list(CLASSES),
        "utterances": len(names),
        "utterances_of_class": classes_S.bincount(minlength=len(CLASSES)).tolist(),
    }
    return outcome._replace(details=details | outcome.details)


def _logistic_probes(
    title: str,
    x_SND: Tensor,
    classes_S: Tensor,
    folds: Sequence[tuple[list[int], list[int]]],
) -> Outcome:
    """A regression for every state and fold: of utterances to train on, and to test on."""
    scores: list[list[float]] = []
    unfinished: list[str] = []
    for state in tqdm(range(x_SND.shape[1]), desc=title, unit="state", disable=None):
        scores.append([])
        for number, (train, test) in enumerate(folds, start=1):
            fit = fit_logistic(x_SND[train, state], classes_S[train], 1 + int(classes_S.max()))
            scores[-1].append(fit.accuracy(x_SND[test, state], classes_S[test]))
            if not fit.converged:
                where = f"state {state}" + (f", fold {number}" if len(folds) > 1 else "")
                unfinished.append(where)
                logger.warning(
                    f"{where}: the regression has not converged (gradient {fit.gradient:.1e})"
                )
    chances = [majority_accuracy(classes_S[train], classes_S[test]) for train, test in folds]
    details = {"fold_scores": scores, "fold_chances": chances, "not_converged": unfinished}
    figures = [statistics.fmean(of_state) for of_state in scores]
    return Outcome(figures, statistics.fmean(chances), details)


def probe_content(probed: ProbedEncoder) -> Outcome:
    """Character error rate of a linear CTC layer on each state, on test-clean."""
    settings, corpus = probed.settings, probed.corpora.librispeech
    _, frames = probed.train_set
    kept = [batch for batch in (batch.alignable() for batch in frames) if batch.ids]
    total, trained = (sum(len(batch.ids) for batch in batches) for batches in (frames, kept))
    if not trained:
        raise InputError(
            f"--tasks content: no utterance has as many frames as characters: {probed.name} gives "
            "too few frames a second for CTC on characters. Leave this task out."
        )
    heads = CTCHeads(*frame_statistics(kept), TOKENIZER.vocab_size).to(settings.device)
    title = f"{probed.name}, content"
    losses = train_ctc_heads(heads, kept, settings.content_epochs, settings.seed, title)
    details = {
        "train_utterances": trained,
        "train_hours": corpus.hours(TRAIN_SET),
        "test_utterances": len(corpus.sets[TEST_SET]),
        "test_hours": corpus.hours(TEST_SET),
        "too_short_to_train_on": total - trained,
        "steps": len(losses),
    }
    return Outcome(_character_error_rates(probed, heads), 100.0, details)


@torch.no_grad()
def _character_error_rates(probed: ProbedEncoder, heads: CTCHeads) -> list[float]:
    corpus = probed.corpora.librispeech
    transcripts = corpus.sets[TEST_SET].data
    stats = [ErrorRateStats() for _ in heads.mean_ND]
    for batch in probed.batches(corpus, TEST_SET):
        said = [list(transcripts[name]["wrd"]) for name in batch.ids]
        log_probs_NBTV = heads(batch.states_NBTD)
        share_B = batch.lengths_B / log_probs_NBTV.shape[2]
        for of_head, log_probs_BTV in zip(stats, log_probs_NBTV, strict=True):
            rows = ctc_greedy_decode(log_probs_BTV, share_B, blank_id=BLANK_INDEX)
            heard = [list(TOKENIZER.decode(row).strip()) for row in rows]
            of_head.append(batch.ids, heard, said)
    return [float(of_head.summarize("error_rate")) for of_head in stats]


@dataclass(frozen=True)
class LayerTask:
    """A task, and what tables and pictures call its figures.

    ``depends_on`` prepares its corpus and tells what figures depend on besides the encoder;
    ``reference`` is what chance is.
    """

    probe: Callable[[ProbedEncoder], Outcome]
    depends_on: Callable[[Corpora], Mapping[str, Any]]
    column: str
    label: str
    title: str
    reference: str
    best: Callable[[Sequence[float]], float] = max


#: In the order in which they are done.
TASKS = {
    "speaker": LayerTask(
        probe_speakers,
        lambda corpora: corpora.librispeech.identity,
        "accuracy",
        "accuracy on utterances held out (%)",
        "Speaker: logistic regression on the mean over time",
        "most frequent speaker",
    ),
    "content": LayerTask(
        probe_content,
        lambda corpora: {
            **corpora.librispeech.identity,
            "epochs": corpora.settings.content_epochs,
            "batch_seconds": corpora.settings.batch_seconds,
        },
        "cer",
        "character error rate, test-clean (%)",
        "Content: one linear CTC layer, greedy",
        "nothing recognised",
        min,
    ),
    "emotion": LayerTask(
        probe_emotions,
        lambda corpora: corpora.iemocap.identity,
        "accuracy",
        "accuracy, mean of ten folds (%)",
        "Emotion: logistic regression on the mean over time",
        "most frequent emotion",
    ),
}
