"""Speaker verification: error rates of scored trials.

Shape suffixes: B batch, E embedding, K training speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import EER, minDCF
from torch import Tensor
from torch.nn.functional import normalize

from summarymixing_modules.data.corpora.voxceleb import Trial
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.training.scores.score import Score

logger = get_logger(__name__)


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


class SpeakerErrors(Score):
    """The percentage of utterances that are given to a wrong training speaker."""

    def __init__(self) -> None:
        self.right = self.total = 0

    def append(self, cosines_BK: Tensor, targets_B: Tensor) -> None:
        """Counts a batch."""
        self.right += int((cosines_BK.argmax(dim=-1) == targets_B).sum())
        self.total += len(targets_B)

    def summarise(self) -> dict[str, float]:
        """ "speaker_error"."""
        return {"speaker_error": 100 * (1 - self.right / max(1, self.total))}


class TrialScore(Score):
    """Error rates of trials, each scored by the cosine of two embeddings.

    Args:
        trials: to score.
        partial: the evaluation is cut short, and may lack one of the two kinds of trials.
    """

    def __init__(self, trials: Sequence[Trial], partial: bool = False) -> None:
        self.trials, self.partial = trials, partial
        self._embeddings: dict[str, Tensor] = {}

    def append(self, names: Sequence[str], embeddings_BE: Tensor) -> None:
        """Keeps the embeddings of a batch of utterances."""
        unit_BE = normalize(embeddings_BE.float(), dim=-1).cpu()
        self._embeddings.update(zip(names, unit_BE, strict=True))

    def summarise(self) -> dict[str, float]:
        """ "EER" in percent, "min_dcf" (both costs 1, target probability 0.01), "trials"."""
        known = self._embeddings
        self._scored = [t for t in self.trials if t.one in known and t.other in known]
        if len(self._scored) < len(self.trials):
            logger.warning(
                f"{len(self.trials) - len(self._scored)} of {len(self.trials)} trials left out: a "
                "recording could not be read (see bad_audio.csv), or --debug cut the evaluation "
                "short"
            )
        self._cosines = [float(known[t.one] @ known[t.other]) for t in self._scored]
        both = len({trial.same for trial in self._scored}) == 2
        rates = (float("nan"), float("nan"))
        if both or not self.partial:
            rates = error_rates(self._scored, self._cosines)
        return {"EER": rates[0], "min_dcf": rates[1], "trials": float(len(self._scored))}

    def write(self, name: str, folder: Path, single: bool) -> None:
        """Writes ``scores.txt``: 1 for one speaker or 0, the two utterances, the score."""
        pairs = zip(self._scored, self._cosines, strict=True)
        lines = [f"{int(t.same)} {t.one} {t.other} {score:.6f}\n" for t, score in pairs]
        write_atomically(folder / "scores.txt", "".join(lines))
        logger.info(f"{len(self._scored)} trials scored: {folder / 'scores.txt'}")
