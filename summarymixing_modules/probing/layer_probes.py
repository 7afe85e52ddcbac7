"""Light linear probes on every hidden state of a frozen encoder: speaker, content, emotion.

Speaker and emotion: a logistic regression on the mean over time of each state. Content: a linear
CTC layer on the frames of each state.

Shape suffixes: N hidden states, S utterances, B batch, T frames, D features, K classes,
M frames of a batch, V vocabulary.
"""

from __future__ import annotations

import logging
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from summarymixing_modules.data.corpora.iemocap import CLASSES, FOLDS, TASK, speakers_of_fold
from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.ctc_search import CTCDecoder
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.probing.layer_states import (
    TEST_SET,
    TOKENIZER,
    TRAIN_SET,
    EncodedCorpora,
    StateBatch,
    hours_of,
)
from summarymixing_modules.training.scores.error_rates import ErrorRate

logger = logging.getLogger(__name__)

#: Part of a speaker's utterances that is held out.
HELD_OUT = 0.2
#: A regression has converged when no partial derivative of its objective is larger.
GRADIENT_TOLERANCE = 1e-4
MAX_ITERATIONS = 2000
#: Of Adam on the CTC layers; falls linearly to a hundredth of it.
CTC_LR = 1e-2
_MIN_DEVIATION = 1e-6

#: Figures of every hidden state, what is reached without the encoder, in percent, and details.
Outcome = tuple[list[float], float, dict[str, Any]]


def probe_speakers(probed: EncodedCorpora) -> Outcome:
    """Accuracy of a logistic regression on the mean of each state, utterances held out."""
    pooled, _ = probed.train_set
    rows = probed.corpora["speaker"][TRAIN_SET].manifest
    chapters = {row.id: row.spk_id for row in rows if row.id in pooled}
    train, test, left_out, by_chapter = split_speakers(chapters, probed.settings.seed)
    if left_out:
        logger.warning(
            f"speaker: {len(left_out)} speakers with a single utterance are left out: "
            f"{', '.join(left_out)} (a larger --max_hours gives them more)"
        )
    speakers = sorted(set(train.values()))
    if len(speakers) < 2:
        raise InputError(
            f"--tasks speaker: {len(speakers)} speakers have two utterances or more, two are "
            "needed: raise --max_hours."
        )
    labels = {name: speakers.index(speaker) for name, speaker in (train | test).items()}
    fold = [*train], [*test]
    figures, chance, found = _logistic_probes(probed, "speaker", pooled, labels, [fold])
    details = {
        "speakers": len(speakers),
        "left_out": left_out,
        "train_utterances": len(train),
        "test_utterances": len(test),
        "speakers_split_by_chapter": by_chapter,
        "not_converged": found["not_converged"],
    }
    return figures, chance, details


def split_speakers(
    chapters: Mapping[str, str], seed: int
) -> tuple[dict[str, str], dict[str, str], list[str], int]:
    """Holds about a fifth of each speaker's utterances out, whole chapters where there are several.

    Chapters are held out until they make up a fifth, and one always stays; so it may be half for a
    speaker of two. ``chapters`` maps utterances to speaker-chapter; their order does not matter.

    Returns:
        utterances to train and to test on, with their speakers; speakers with a single utterance,
        who are left out; of how many speakers whole chapters are held out.
    """
    generator = random.Random(seed)
    train, test, left_out, by_chapter = dict[str, str](), dict[str, str](), list[str](), 0
    places = sorted((chapter.partition("-")[0], name) for name, chapter in chapters.items())
    for speaker, group in groupby(places, key=lambda place: place[0]):
        spoken = [name for _, name in group]
        counts = Counter(chapters[name] for name in spoken)
        share = HELD_OUT * len(spoken)
        held: list[str] = []
        if len(spoken) < 2:
            left_out.append(speaker)
            continue
        if len(counts) > 1:
            by_chapter += 1
            for chapter in generator.sample(sorted(counts), len(counts) - 1):
                if len(held) < share:
                    held += [name for name in spoken if chapters[name] == chapter]
        else:
            held = generator.sample(spoken, max(1, round(share)))
        for name in spoken:
            (test if name in held else train)[name] = speaker
    return train, test, left_out, by_chapter


def probe_emotions(probed: EncodedCorpora) -> Outcome:
    """Accuracy, mean over the folds, of a logistic regression on the mean of each state.

    A fold trains on eight speakers and tests one; the other speaker of the tested session, on whom
    other probes validate, is not used.
    """
    pooled, emotions, speakers = dict[str, Tensor](), dict[str, str](), dict[str, str]()
    for part, dataset in probed.corpora["emotion"].items():
        for batch in probed.batches("emotion", part):
            pooled |= batch.pooled()
        annotations = read_annotations(dataset.manifest.path)
        emotions |= {name: annotation[TASK] for name, annotation in annotations.items()}
        speakers |= {row.id: row.spk_id for row in dataset.manifest}
    labels = {name: CLASSES.index(emotions[name]) for name in sorted(pooled)}
    folds = [
        ([n for n in labels if speakers[n] in train], [n for n in labels if speakers[n] in test])
        for train, _, test in map(speakers_of_fold, FOLDS)
    ]
    figures, chance, found = _logistic_probes(probed, "emotion", pooled, labels, folds)
    counts = Counter(labels.values())
    details = {
        "classes": list(CLASSES),
        "utterances": len(labels),
        "utterances_of_class": [counts[label] for label in range(len(CLASSES))],
    }
    return figures, chance, details | found


def _logistic_probes(
    probed: EncodedCorpora,
    task: str,
    pooled: Mapping[str, Tensor],
    labels: Mapping[str, int],
    folds: Sequence[tuple[list[str], list[str]]],
) -> Outcome:
    """A regression for every state and fold: of utterances to train on, and to test on."""
    x_SND = torch.stack([pooled[name] for name in labels]).to(probed.settings.device)
    classes_S = torch.tensor([*labels.values()], device=x_SND.device)
    place = {name: index for index, name in enumerate(labels)}
    places = [([place[n] for n in train], [place[n] for n in test]) for train, test in folds]
    scores: list[list[float]] = []
    unfinished: list[str] = []
    title = f"{probed.name}, {task}"
    for state in tqdm(range(x_SND.shape[1]), desc=title, unit="state", disable=None):
        scores.append([])
        for number, (train, test) in enumerate(places, start=1):
            scores_SK, gradient = fit_logistic(x_SND[:, state], classes_S, train)
            scores[-1].append(_percent(scores_SK[test].argmax(dim=-1) == classes_S[test]))
            if gradient > GRADIENT_TOLERANCE:
                where = f"state {state}" + (f", fold {number}" if len(folds) > 1 else "")
                unfinished.append(where)
                logger.warning(
                    f"{where}: the regression has not converged (gradient {gradient:.1e})"
                )
    chances = [majority_accuracy(classes_S[train], classes_S[test]) for train, test in places]
    details = {"fold_scores": scores, "fold_chances": chances, "not_converged": unfinished}
    return [*map(statistics.fmean, scores)], statistics.fmean(chances), details


def fit_logistic(x_SD: Tensor, classes_S: Tensor, train: Sequence[int]) -> tuple[Tensor, float]:
    """A logistic regression on features standardised by the training part, in double precision.

    Minimises -Σ_s log p(class_s | x_s) + ½ ‖W‖², over the number of training utterances. This is
    strictly convex in W, and the weights begin at 0: the result does not depend on any draw. L-BFGS
    sees all utterances at once.

    Args:
        x_SD: features of all utterances.
        classes_S: 0 to K - 1.
        train: places of the utterances to train on.

    Returns:
        scores_SK of the classes, and the largest partial derivative of the objective.
    """
    x_SD, targets = x_SD.double(), classes_S[train]
    deviation_D = x_SD[train].std(dim=0, correction=0)
    deviation_D = torch.where(deviation_D > _MIN_DEVIATION, deviation_D, 1.0)
    z_SD = (x_SD - x_SD[train].mean(dim=0)) / deviation_D
    seen_SD = z_SD[train]
    weight_KD = z_SD.new_zeros(1 + int(classes_S.max()), z_SD.shape[1], requires_grad=True)
    bias_K = z_SD.new_zeros(len(weight_KD), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_KD, bias_K],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=GRADIENT_TOLERANCE / 10,
        tolerance_change=0.0,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(seen_SD, weight_KD, bias_K), targets)
        loss = loss + 0.5 * weight_KD.square().sum() / len(seen_SD)
        loss.backward()
        return loss

    optimizer.step(objective)
    objective()
    gradient = max(
        float(weights.grad.abs().max()) for weights in optimizer.param_groups[0]["params"]
    )
    return F.linear(z_SD, weight_KD, bias_K).detach(), gradient


def majority_accuracy(train_S: Tensor, test_S: Tensor) -> float:
    """Accuracy, in percent, of always answering the most frequent class of the training part."""
    return _percent(test_S == train_S.bincount().argmax())


def _percent(right_S: Tensor) -> float:
    return 100 * float(right_S.double().mean())


def probe_content(probed: EncodedCorpora) -> Outcome:
    """Character error rate of a linear CTC layer on each state, on test-clean."""
    settings, sets = probed.settings, probed.corpora["content"]
    pooled, kept = probed.train_set
    if not kept:
        raise InputError(
            f"--tasks content: no utterance has as many frames as characters: {probed.name} gives "
            "too few frames a second for CTC on characters. Leave this task out."
        )
    heads = CTCHeads(kept).to(settings.device)
    heads.fit(kept, settings.content_epochs, settings.seed, f"{probed.name}, content")
    decode, rates = CTCDecoder(TOKENIZER), [ErrorRate() for _ in heads.mean_ND]
    for batch in probed.batches("content", TEST_SET):
        with torch.no_grad():
            log_probs_NBTV = heads(batch.states_NBTD)
        share_B = batch.lengths_B / log_probs_NBTV.shape[2]
        for rate, log_probs_BTV in zip(rates, log_probs_NBTV, strict=True):
            for heard, said in zip(decode(log_probs_BTV, share_B), batch.texts, strict=True):
                rate.append(heard, said)
    trained = sum(len(batch.ids) for batch in kept)
    details = {
        "train_utterances": trained,
        "train_hours": hours_of(sets[TRAIN_SET]),
        "test_utterances": len(sets[TEST_SET]),
        "test_hours": hours_of(sets[TEST_SET]),
        "too_short_to_train_on": len(pooled) - trained,
        "steps": settings.content_epochs * len(kept),
    }
    return [rate.percent for rate in rates], 100.0, details


class CTCHeads(nn.Module):
    """A standardisation and a linear layer for each hidden state, in one product.

    No head sees another's state or parameters: what one learns does not depend on the others.

    Args:
        batches: to train on; their real frames are standardised.
    """

    mean_ND: Tensor
    scale_ND: Tensor

    def __init__(self, batches: Sequence[StateBatch]) -> None:
        super().__init__()
        count, sums, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
        for batch in batches:
            real_BT = ~lengths_to_padding(batch.lengths_B, batch.states_NBTD.shape[2])
            frames_NMD = batch.states_NBTD[:, real_BT].double()
            count += frames_NMD.shape[1]
            sums = sums + frames_NMD.sum(dim=1)
            squares = squares + frames_NMD.square().sum(dim=1)
        mean_ND = sums / count
        deviation_ND = (squares / count - mean_ND.square()).clamp(min=0).sqrt().float()
        self.register_buffer("mean_ND", mean_ND.float())
        self.register_buffer("scale_ND", 1 / deviation_ND.clamp(min=_MIN_DEVIATION))
        self.weight_NDV = nn.Parameter(torch.zeros(*mean_ND.shape, TOKENIZER.vocab_size))
        self.bias_NV = nn.Parameter(torch.zeros(len(mean_ND), TOKENIZER.vocab_size))

    def forward(self, states_NBTD: Tensor) -> Tensor:
        """Log-probabilities (N, B, T, V) of characters and the blank."""
        z_NBTD = states_NBTD.to(self.mean_ND) - self.mean_ND[:, None, None]
        z_NBTD = z_NBTD * self.scale_ND[:, None, None]
        scores_NBTV = torch.einsum("nbtd,ndv->nbtv", z_NBTD, self.weight_NDV)
        return (scores_NBTV + self.bias_NV[:, None, None]).log_softmax(dim=-1)

    def losses(self, batch: StateBatch) -> Tensor:
        """CTC's loss of every head, (N,): the mean over utterances of the loss per character."""
        log_probs_NBTV = self(batch.states_NBTD)
        heads, utterances = log_probs_NBTV.shape[:2]
        tokens = [TOKENIZER.encode(text) for text in batch.texts]
        counts_B = torch.tensor([*map(len, tokens)], device=log_probs_NBTV.device)
        losses_NB = F.ctc_loss(
            log_probs_NBTV.flatten(0, 1).transpose(0, 1),
            torch.tensor(heads * sum(tokens, []), device=log_probs_NBTV.device),
            batch.lengths_B.to(log_probs_NBTV.device).repeat(heads),
            counts_B.repeat(heads),
            blank=TOKENIZER.blank_index,
            reduction="none",
        ).view(heads, utterances)
        return (losses_NB / counts_B).mean(dim=1)

    def fit(self, batches: Sequence[StateBatch], epochs: int, seed: int, title: str) -> None:
        """Trains with Adam on batches that are ``alignable``, in a new order every epoch."""
        optimizer = torch.optim.Adam(self.parameters(), lr=CTC_LR)
        steps = epochs * len(batches)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(batches), generator=generator) for _ in range(epochs)]
        with tqdm(torch.cat(orders).tolist(), desc=title, unit="step", disable=None) as bar:
            for index in bar:
                losses_N = self.losses(batches[index])
                optimizer.zero_grad()
                # Of a sum, each head's gradient is that of its own loss.
                losses_N.sum().backward()
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{float(losses_N.detach().mean()):.2f}")


#: In the order in which they are done.
TASKS = {"speaker": probe_speakers, "content": probe_content, "emotion": probe_emotions}
