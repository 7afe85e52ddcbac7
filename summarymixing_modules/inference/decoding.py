"""Tokens and words with times, and all that was said.

Shape suffixes: T frames, V vocabulary, S states of a CTC path.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import forced_align

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, Tokenizer


@dataclass(frozen=True)
class Token:
    """A token and where it was heard.

    Attributes:
        index: in the vocabulary.
        start: its first frame of the model's output.
        stop: one past its last frame.
        confidence: mean probability of the token over its frames; None if that is unknown.
    """

    index: int
    start: int
    stop: int
    confidence: float | None


@dataclass(frozen=True)
class Word:
    """A word and when it was said.

    Attributes:
        text: the word.
        start: seconds from the start of the recording.
        end: likewise.
        confidence: mean of its tokens'; None if that is unknown.
    """

    text: str
    start: float
    end: float
    confidence: float | None


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


def best_path(log_probs_TV: Tensor) -> list[Token]:
    """The tokens of the most probable CTC path (Graves et al., ICML 2006, §3.2).

    CTC models say a token in one or few frames, near where it was heard: times of words are good to
    about a tenth of a second, and words end early rather than late.

    Args:
        log_probs_TV: of the real frames of one utterance.
    """
    scores_T, best_T = log_probs_TV.max(dim=-1)
    return _tokens_of(best_T, scores_T)


def _tokens_of(path_T: Tensor, scores_T: Tensor) -> list[Token]:
    """The tokens of a CTC path, whose labels have these log-probabilities."""
    runs, counts = path_T.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0)
    cumulated_T = torch.cat([scores_T.new_zeros(1), scores_T.exp().cumsum(0)])
    sums = cumulated_T[stops] - cumulated_T[stops - counts]
    rows = zip(runs.tolist(), stops.tolist(), counts.tolist(), sums.tolist(), strict=True)
    return [
        Token(index, stop - count, stop, min(1.0, total / count))
        for index, stop, count, total in rows
        if index != BLANK_INDEX
    ]


def align_ctc(log_probs_TV: Tensor, indices: Sequence[int]) -> list[Token]:
    """The most probable CTC path that says given tokens (Viterbi), for their times.

    Torchaudio finds it; where it has no compiled library, `plain_path` does.

    Args:
        log_probs_TV: of the CTC head on the real frames of one utterance.
        indices: what another decoder found. More tokens than the frames can hold are spread evenly.
    """
    frames, repeats = len(log_probs_TV), sum(a == b for a, b in itertools.pairwise(indices))
    if len(indices) + repeats > frames:
        edges = [round(n * frames / len(indices)) for n in range(len(indices) + 1)]
        spans = itertools.pairwise(edges)
        return [Token(i, a, b, None) for i, (a, b) in zip(indices, spans, strict=True)]
    if not indices:
        return []
    log_probs_TV = log_probs_TV.cpu()
    if hasattr(torch.ops.torchaudio, "forced_align"):
        targets_BU = torch.tensor([indices])
        paths_BT, scores_BT = forced_align(log_probs_TV[None], targets_BU, blank=BLANK_INDEX)
        return _tokens_of(paths_BT[0], scores_BT[0])
    path_T = plain_path(log_probs_TV, indices)
    return _tokens_of(path_T, log_probs_TV.gather(1, path_T[:, None])[:, 0])


def plain_path(log_probs_TV: Tensor, indices: Sequence[int]) -> Tensor:
    """Labels (T,) of the most probable CTC path of tokens, in plain PyTorch: the reference.

    Args:
        log_probs_TV: at least as many frames as the path needs.
        indices: one token or more.
    """
    labels_S = torch.full((2 * len(indices) + 1,), BLANK_INDEX)  # a blank around every token
    labels_S[1::2] = torch.tensor(indices)
    scores_TS = log_probs_TV[:, labels_S]
    lowest = torch.finfo(scores_TS.dtype).min / 4
    may_skip_S = torch.zeros(len(labels_S), dtype=torch.bool)
    may_skip_S[2:] = (labels_S[2:] != BLANK_INDEX) & (labels_S[2:] != labels_S[:-2])
    best_S = scores_TS[0].clone()
    best_S[2:] = lowest
    steps = []
    for scores_S in scores_TS[1:]:
        one_S = F.pad(best_S[:-1], (1, 0), value=lowest)
        two_S = F.pad(best_S[:-2], (2, 0), value=lowest).where(
            may_skip_S, best_S.new_tensor(lowest)
        )
        before_S, step_S = torch.stack([best_S, one_S, two_S]).max(dim=0)
        best_S = before_S + scores_S
        steps.append(step_S)
    state = len(best_S) - 1 - int(best_S[-2] > best_S[-1])
    path = [state]
    for step_S in reversed(steps):
        state -= int(step_S[state])
        path.append(state)
    return labels_S[path[::-1]]


def words_of(
    tokens: Sequence[Token],
    tokenizer: Tokenizer,
    frame_seconds: float,
    offset: float,
    duration: float,
) -> list[Word]:
    """Groups tokens into words.

    Args:
        tokens: of one utterance, in order.
        tokenizer: theirs; a space, or SentencePiece's "\u2581", parts words.
        frame_seconds: of one frame of `Token.start`.
        offset: when the utterance begins, seconds.
        duration: of the utterance, seconds; the last frame may reach beyond it, a word does not.
    """
    pieces = tokenizer.pieces()
    groups: list[list[tuple[str, Token]]] = [[]]
    for token in tokens:
        first, *others = pieces[token.index].replace("\u2581", " ").split(" ")
        groups[-1].append((first, token))
        groups.extend([(part, token)] for part in others)
    spelt = ([(text, token) for text, token in group if text] for group in groups)
    return [_word(parts, frame_seconds, offset, duration) for parts in spelt if parts]


def _word(
    parts: Sequence[tuple[str, Token]], frame_seconds: float, offset: float, duration: float
) -> Word:
    start, end = (
        offset + min(frame * frame_seconds, duration)
        for frame in (parts[0][1].start, parts[-1][1].stop)
    )
    known = [token.confidence for _, token in parts if token.confidence is not None]
    confidence = sum(known) / len(known) if known else None
    return Word("".join(text for text, _ in parts), start, end, confidence)
