"""Speaker verification: error rates of scored trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from speechbrain.utils.metric_stats import EER, minDCF

from summarymixing_modules.data.corpora.voxceleb import Trial
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import ManifestError


def error_rates(trials: Sequence[Trial], scores: Sequence[float]) -> tuple[float, float]:
    """The equal error rate in percent, and the minimal detection cost.

    Args:
        trials: what is true.
        scores: of the trials; higher = more likely one speaker.

    Raises:
        ManifestError: there are no trials of one speaker, or none of two.
    """
    pairs = list(zip(trials, scores, strict=True))
    same = torch.tensor([score for trial, score in pairs if trial.same])
    different = torch.tensor([score for trial, score in pairs if not trial.same])
    if not len(same) or not len(different):
        raise ManifestError(
            f"{len(same)} trials of one speaker and {len(different)} of two can be scored: both "
            "kinds are needed for an equal error rate"
        )
    return 100 * EER(same, different)[0], float(minDCF(same, different)[0])


def write_scores(file: Path, trials: Sequence[Trial], scores: Sequence[float]) -> None:
    """Write a line for each trial: 1 for one speaker or 0, the two utterances, the score."""
    pairs = zip(trials, scores, strict=True)
    lines = [f"{int(t.same)} {t.one} {t.other} {score:.6f}\n" for t, score in pairs]
    write_atomically(file, "".join(lines))
