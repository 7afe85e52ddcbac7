"""Scores of classifiers of utterances, of one or more tasks at once.

Shape suffixes: B batch, N classes, K tasks, U utterances.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.labels import Labels
from summarymixing_modules.data.shards.members import Member
from summarymixing_modules.training.scores.confusion import Confusion
from summarymixing_modules.training.scores.score import Score

logger = get_logger(__name__)


class ClassScore(Score):
    """The percentage of utterances of which every task is right, and of each task.

    Args:
        labels: the classes, as in the targets.
        annotations: of the utterances of the test sets, for their own words about them.
        joint: a name for "every task is right"; None for none.
    """

    def __init__(
        self,
        labels: Labels,
        annotations: Mapping[str, Mapping[str, Any]],
        joint: str | None = None,
    ) -> None:
        self.labels, self.annotations, self.joint = labels, annotations, joint
        self._names: list[str] = []
        self._files: list[str] = []
        self._best: list[list[int]] = []
        self._targets: list[list[int]] = []

    def append(
        self,
        names: Sequence[str],
        files: Sequence[str],
        predictions: Sequence[Tensor],
        targets_BK: Tensor,
    ) -> None:
        """Notes what was predicted of a batch.

        Args:
            names: of the utterances.
            files: theirs.
            predictions: scores (B, N) of the classes of every task.
            targets_BK: the true classes.
        """
        best_BK = torch.stack([scores_BN.argmax(-1) for scores_BN in predictions], 1)
        self._names += names
        self._files += files
        self._best += best_BK.cpu().tolist()
        self._targets += targets_BK.cpu().tolist()

    def summarise(self) -> dict[str, float]:
        """In percent: "ACC", and "TASK_acc" where there are several tasks."""
        names = self.labels.names
        best_UK = torch.tensor(self._best, dtype=torch.long).reshape(-1, len(names))
        right_UK = best_UK == torch.tensor(self._targets, dtype=torch.long).reshape_as(best_UK)
        stats = {"ACC": 100 * float(right_UK.all(dim=1).double().mean())}
        if len(names) > 1:
            shares = (100 * right_UK.double().mean(dim=0)).tolist()
            stats |= {f"{task}_acc": n for task, n in zip(names, shares, strict=True)}
            if self.joint is not None and self.joint not in names:
                stats[f"{self.joint}_acc"] = stats["ACC"]
        return stats

    def write(self, name: str, folder: Path, single: bool) -> None:
        """Writes ``predictions.jsonl``, and the confusions of every task as CSV and picture."""
        suffix = "" if single else f"_{name}"
        lines = []
        pairs: dict[str, list[tuple[str, str]]] = {task: [] for task in self.labels.names}
        for utterance, file, best_K in zip(self._names, self._files, self._best, strict=True):
            annotation = self.annotations[utterance]
            tasks = zip(self.labels.names.items(), best_K, strict=True)
            said = {task: names[index] for (task, names), index in tasks}
            for task, prediction in said.items():
                pairs[task].append((annotation[task], prediction))
            line: dict[str, Any] = {"id": utterance, "file": _file_name(file, utterance), **said}
            line |= {"entities": []} if "entities" in annotation else {}  # SLURP's script asks
            line["reference"] = {task: annotation[task] for task in said}
            lines.append(json.dumps(line) + "\n")
        write_atomically(folder / f"predictions{suffix}.jsonl", "".join(lines))
        for task, said_of_task in pairs.items():
            confusion = Confusion.of(self.labels.names[task], said_of_task)
            path = folder / f"confusion_{task}{suffix}.csv"
            confusion.write_csv(path)
            confusion.write_png(path.with_suffix(".png"), f"{task}, {name}")
        right = self.summarise()["ACC"]
        logger.info(f"{name}: {right:.2f} % right; predictions in {folder}")


def _file_name(path: str, utterance: str) -> str:
    """The name of a recording's file; in a shard it is called by its ID."""
    return Path(path).name if Member.of(path) is None else f"{utterance}.flac"
