"""Training and scoring of classifiers of utterances, of one or more tasks at once.

Shape suffixes: B batch, N classes, K tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.labels import UNSEEN, Labels
from summarymixing_modules.training.scored import ScoredBrain
from summarymixing_modules.training.scores.confusion import Confusion

logger = get_logger(__name__)


class ClassificationBrain(ScoredBrain):
    """Brain of classification recipes; ``modules`` holds ``model`` and ``normalize``.

    The loss is the sum over the tasks of the mean cross-entropy. ACC is the percentage of
    utterances of which every task is right; checkpoints are ranked by it.

    Attributes:
        labels: the classes, as in the targets.
        annotations: of the utterances of the test sets, for their own words about them.
        extra_fields: added to every line of predictions.jsonl.
    """

    known_keys: ClassVar[frozenset[str]] = ScoredBrain.known_keys | {
        "tasks",
        "classes",
        "pooling",
        "joint",  # a name for "every task is right"; null for none
        "label_smoothing",
    }
    architecture_keys = (*ScoredBrain.architecture_keys, "classes", "pooling", "labels")
    ranking: ClassVar[dict[str, str]] = {"max_key": "ACC"}
    headlines: ClassVar[dict[str, str]] = {"test_accuracy": "ACC"}

    labels: Labels
    annotations: Mapping[str, Mapping[str, Any]] = {}
    extra_fields: Mapping[str, Any] = {}

    def compute_forward(self, batch: Any, stage: sb.Stage) -> list[Tensor]:
        """Log-probabilities (B, N) of every task."""
        batch = batch.to(self.device)
        samples_BL, share_B = batch.sig
        features_BTF, lengths_B = self.features(samples_BL, share_B, stage)
        return self.modules.model(features_BTF, lengths_B, self.chunk_config(stage))

    def compute_objectives(self, predictions: list[Tensor], batch: Any, stage: sb.Stage) -> Tensor:
        """The loss; in evaluation also notes what was predicted."""
        targets_BK = batch.targets.data
        if stage != sb.Stage.TRAIN:
            best_BK = torch.stack([scores_BN.argmax(-1) for scores_BN in predictions], 1)
            self._names += batch.id
            self._files += batch.wav
            self._best += best_BK.cpu().tolist()
            self._targets += targets_BK.cpu().tolist()
        smoothing = self.option("label_smoothing", 0.0)
        return task_loss(predictions, targets_BK, smoothing if stage == sb.Stage.TRAIN else 0.0)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Nothing predicted yet."""
        super().on_stage_start(stage, epoch)
        self._names: list[str] = []
        self._files: list[str] = []
        self._best: list[list[int]] = []
        self._targets: list[list[int]] = []

    def scores(self) -> dict[str, float]:
        """In percent: "ACC", and "TASK_acc" where there are several tasks."""
        best_UK = torch.tensor(self._best, dtype=torch.long).reshape(-1, len(self.labels.names))
        right_UK = best_UK == torch.tensor(self._targets, dtype=torch.long).reshape_as(best_UK)
        stats = {"ACC": 100 * float(right_UK.all(dim=1).double().mean())}
        if right_UK.shape[1] > 1:
            shares = (100 * right_UK.double().mean(dim=0)).tolist()
            names = self.labels.names
            stats |= {f"{task}_acc": n for task, n in zip(names, shares, strict=True)}
            if self.option("joint") is not None and self.hparams.joint not in names:
                stats[f"{self.hparams.joint}_acc"] = stats["ACC"]
        return stats

    def write_details(self, name: str, folder: Path, single: bool) -> None:
        """Writes predictions and confusions of a test set."""
        lines = []
        pairs: dict[str, list[tuple[str, str]]] = {task: [] for task in self.labels.names}
        rows = zip(self._names, self._files, self._best, strict=True)
        for utterance, file, best_K in rows:
            annotation = self.annotations[utterance]
            said = {
                task: names[index]
                for (task, names), index in zip(self.labels.names.items(), best_K, strict=True)
            }
            for task, prediction in said.items():
                pairs[task].append((annotation[task], prediction))
            truth = {task: annotation[task] for task in said}
            line = {"id": utterance, "file": Path(file).name, **said, **self.extra_fields}
            lines.append(json.dumps({**line, "reference": truth}) + "\n")
        suffix = "" if single else f"_{name}"
        write_atomically(folder / f"predictions{suffix}.jsonl", "".join(lines))
        for task, said_of_task in pairs.items():
            confusion = Confusion.of(self.labels.names[task], said_of_task)
            path = folder / f"confusion_{task}{suffix}.csv"
            confusion.write_csv(path)
            confusion.write_png(path.with_suffix(".png"), f"{task}, {name}")
        logger.info(f"{name}: {self.test_stats['ACC']:.2f} % right; predictions in {folder}")


def task_loss(
    predictions: Sequence[Tensor], targets_BK: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Sum over tasks of the mean cross-entropy; utterances of unseen classes have no part in it.

    Args:
        predictions: log-probabilities (B, N) of every task.
        targets_BK: classes; `UNSEEN` for one that has no number.
        label_smoothing: part of a target that all classes share alike.
    """
    losses = [
        # Log-probabilities are scores like any: softmax leaves them as they are.
        F.cross_entropy(
            scores_BN,
            targets_B,
            ignore_index=UNSEEN,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        / (targets_B != UNSEEN).sum().clamp(min=1)
        for scores_BN, targets_B in zip(predictions, targets_BK.unbind(dim=1), strict=True)
    ]
    return torch.stack(losses).sum()
