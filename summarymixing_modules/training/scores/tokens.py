"""Scores of models that predict the next token.

Shape suffixes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

import math

from torch import Tensor

from summarymixing_modules.training.scores.score import Score


class TokenAccuracy(Score):
    """The percentage of tokens that a teacher-forced decoder gets right."""

    def __init__(self) -> None:
        self.right = self.tokens = 0

    def append(self, scores_BUV: Tensor, tokens_BU: Tensor, padding: int) -> None:
        """Counts a batch; tokens that are ``padding`` do not count."""
        real_BU = tokens_BU != padding
        self.right += int(((scores_BUV.argmax(dim=-1) == tokens_BU) & real_BU).sum())
        self.tokens += int(real_BU.sum())

    def summarise(self) -> dict[str, float]:
        """ "ACC"."""
        return {"ACC": 100 * self.right / max(self.tokens, 1)}


class Perplexity(Score):
    """Mean negative log-likelihood of the tokens of a whole set, and its exponential."""

    def __init__(self) -> None:
        self.nats, self.tokens = 0.0, 0

    def append(self, nats: Tensor, tokens: Tensor) -> None:
        """Adds the negative log-likelihoods of so many tokens."""
        self.nats += float(nats)
        self.tokens += int(tokens)

    def summarise(self) -> dict[str, float]:
        """ "loss" in nats and "PPL"."""
        loss = self.nats / max(self.tokens, 1)
        return {"loss": loss, "PPL": math.exp(min(loss, 700.0))}
