"""Names of classes and their numbers, and datasets with the numbers as targets."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import ManifestError

logger = logging.getLogger(__name__)

#: Target of a class that training does not have: no loss, and never right.
UNSEEN = -1
LABELS_FILE = "labels.json"  # of a training, in its save_folder


@dataclass(frozen=True)
class Labels:
    """Classes of one or more tasks.

    Attributes:
        names: task → its classes, in the order of their numbers.
    """

    names: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, annotations: Iterable[Mapping[str, Any]], tasks: Sequence[str]) -> Labels:
        """The classes that occur, in alphabetical order.

        Raises:
            ManifestError: annotations do not have such a task.
        """
        found: dict[str, set[str]] = {task: set() for task in tasks}
        for annotation in annotations:
            for task, names in found.items():
                if not isinstance(annotation.get(task), str):
                    known = [key for key, value in annotation.items() if isinstance(value, str)]
                    raise ManifestError(
                        f"--tasks: the corpus has no labels for {task!r}, only for "
                        f"{', '.join(known)}"
                    )
                names.add(annotation[task])
        return cls({task: sorted(names) for task, names in found.items()})

    def check_sizes(self, classes: Sequence[int]) -> None:
        """Compare with the outputs of a model.

        Raises:
            ManifestError: there are more or fewer classes; tells the right numbers.
        """
        found = [len(names) for names in self.names.values()]
        if list(classes) != found:
            counts = ", ".join(f"{n} of {task}" for task, n in zip(self.names, found, strict=True))
            raise ManifestError(
                f"--classes is {list(classes)}, but the training data have {counts}: set it to "
                f"{found}"
            )

    def targets(self, annotation: Mapping[str, Any]) -> list[int]:
        """The number of an utterance's class in every task; `UNSEEN` where it has none."""
        return [
            list(names).index(annotation[task]) if annotation[task] in names else UNSEEN
            for task, names in self.names.items()
        ]

    def unseen(self, annotations: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
        """Classes without a number: task → class → how many utterances have it."""
        found: dict[str, Counter[str]] = {task: Counter() for task in self.names}
        for annotation in annotations:
            for task, names in self.names.items():
                found[task].update({annotation[task]} - set(names))
        return {task: dict(sorted(counts.items())) for task, counts in found.items() if counts}

    def save(self, path: Path) -> None:
        """Write the names as JSON."""
        content = {task: list(names) for task, names in self.names.items()}
        write_atomically(path, json.dumps(content, indent=1) + "\n")


class _Targets:
    """Produces ``targets`` from an utterance's ID."""

    def __init__(self, annotations: Mapping[str, Mapping[str, Any]], labels: Labels) -> None:
        self.targets = {name: labels.targets(record) for name, record in annotations.items()}

    def __call__(self, utterance: str) -> torch.Tensor:
        return torch.tensor(self.targets[utterance], dtype=torch.long)


def add_targets(
    dataset: DynamicItemDataset, annotations: Mapping[str, Mapping[str, Any]], labels: Labels
) -> None:
    """Give the examples of a dataset ``targets`` (K,), int64, one for each task, and ``wav``.

    Args:
        dataset: of ``make_datasets``, without a tokenizer.
        annotations: of its utterances.
        labels: the classes.
    """
    dataset.add_dynamic_item(_Targets(annotations, labels), takes=["id"], provides="targets")
    dataset.set_output_keys(["id", "sig", "wav", "duration", "targets"])


def report_unseen(name: str, unseen: Mapping[str, Mapping[str, int]]) -> None:
    """Warn of the classes of a set that training does not have."""
    for task, counts in unseen.items():
        listed = ", ".join(f"{label} ({count})" for label, count in counts.items())
        logger.warning(
            f"{name}: {sum(counts.values())} utterances have a class of {task} that training does "
            f"not have: {listed}. They are kept, and count as errors"
        )
