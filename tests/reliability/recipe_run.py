"""A recipe run through its train.py with faults on demand; the children's side of `conftest.Runs`.

Every rank leaves in the output folder ``final-rank0.pt`` and so on, all that training changes, and
``read-rank0.jsonl``: the batches it has read. Faults of a run, all optional:

    faults: {"3": "nan_loss"}  what happens to batches, by number from 1, on rank ``fault_rank``:
                               nan_loss, nan_gradient, nan_input or empty_batch; "all": every one
    kill_at_batch: 5           SIGKILL when that batch arrives; counted from 1 in each process
    kill_in_save: 2            SIGKILL in the middle of that save
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedData
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.recipe.config import leave_process_group
from tests.ranks import load_script

Spec = Mapping[str, Any]


def die() -> None:
    """End as a process does that the system has no memory for."""
    os.kill(os.getpid(), signal.SIGKILL)


@register_checkpoint_hooks
class Bomb:
    """A recoverable that kills the process in the middle of a save, from 1; 0 = never."""

    def __init__(self, save: int) -> None:
        self.left = save

    @mark_as_saver
    def save(self, path: Path) -> None:
        """Write half a file, and die if it is time."""
        Path(path).write_text("half", encoding="utf-8")
        self.left -= 1
        if self.left == 0:
            die()

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool) -> None:
        """Nothing is to be restored."""


class Watcher:
    """Sits in the hooks of a Brain: makes the faults, and notes what is read."""

    def __init__(self, brain: SafeBrain, spec: Spec, rank: int) -> None:
        assert brain.checkpointer is not None and brain.output_folder is not None
        self.brain, self.spec, self.rank = brain, spec, rank
        self.folder = brain.output_folder
        self.batches = self.forwards = 0
        self.fault: str | None = None
        brain.checkpointer.add_recoverable("bomb", Bomb(spec.get("kill_in_save", 0)))
        for hook in (self.fit_batch, self.compute_forward, self.compute_objectives):
            setattr(self, f"_{hook.__name__}", getattr(brain, hook.__name__))
            setattr(brain, hook.__name__, hook)

    def fit_batch(self, batch: Any) -> torch.Tensor:
        """Die if it is time; mark the batch if a fault is due; note it when it has been read."""
        self.batches += 1
        if self.batches == self.spec.get("kill_at_batch"):
            die()
        faults = self.spec.get("faults", {}) if self.rank == self.spec.get("fault_rank", 0) else {}
        self.fault = faults.get(str(self.batches), faults.get("all"))
        if self.fault == "empty_batch":
            batch.is_empty = True
        elif self.fault == "nan_input":
            batch.sig = PaddedData(batch.sig.data * torch.nan, batch.sig.lengths)
        loss = float(self._fit_batch(batch))  # type: ignore[attr-defined]
        line = {"epoch": self.brain.epoch, "batch": self.brain.step, "ids": batch.id, "loss": loss}
        with (self.folder / f"read-rank{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return torch.tensor(loss)

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Any:
        """Count what is computed."""
        self.forwards += stage == sb.Stage.TRAIN
        return self._compute_forward(batch, stage)  # type: ignore[attr-defined]

    def compute_objectives(self, predictions: Any, batch: Any, stage: sb.Stage) -> torch.Tensor:
        """The loss, with the fault that is due."""
        loss = self._compute_objectives(predictions, batch, stage)  # type: ignore[attr-defined]
        if stage == sb.Stage.TRAIN and self.fault == "nan_loss":
            return loss * torch.nan
        if stage == sb.Stage.TRAIN and self.fault == "nan_gradient":
            return loss + (loss * 0).sqrt()  # the square root has an infinite slope at 0
        return loss

    def save(self) -> None:
        """Everything that training has changed, for a comparison to the last bit."""
        brain = self.brain
        normalize = brain.modules.features.normalize
        optimizers = brain._optimizers(frozen_too=True)
        state = {
            "model": brain.model.state_dict(),
            "optimizers": {name: part.state_dict() for name, part in optimizers.items()},
            "schedule": vars(brain.lr_scheduler),
            "normalize": [normalize.count, normalize.glob_mean, normalize.glob_std],
            "random": torch.get_rng_state(),
            "curves": brain.history.curves,
            "epochs": [{**epoch, "totals": None} for epoch in brain.history.epochs],
            "steps": brain.optimizer_step,
            "forwards": self.forwards,
        }
        torch.save(state, self.folder / f"final-rank{self.rank}.pt")


def run_rank(rank: int, spec: Spec) -> None:
    """Run a recipe as one of its ranks.

    Args:
        rank: from 0.
        spec: ``train``, the train.py; ``argv``, its arguments; and the faults.
    """
    fit = SafeBrain.fit

    def watched_fit(brain: SafeBrain, *arguments: Any, **options: Any) -> None:
        watcher = Watcher(brain, spec, rank)
        fit(brain, *arguments, **options)
        watcher.save()

    SafeBrain.fit = watched_fit  # type: ignore[assignment, method-assign]
    sys.argv = [spec["train"], *spec["argv"]]
    load_script(spec["train"]).main(spec["argv"])
    leave_process_group()
