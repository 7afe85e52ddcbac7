"""Trains toy.yaml, and dies or fails on demand; started as a process of its own by the tests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch.utils.data import DataLoader

from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.config import load_recipe, run
from summarymixing_modules.training.resume import current_rank

#: They may differ when a training is gone on with.
FAULTS = frozenset({"fault_rank", "faults", "kill_at_step", "kill_in_save"})
READ_HERE = FAULTS | {
    "attention_type",
    "checkpointer",
    "drop",
    "epoch_counter",
    "model",
    "modules",
    "opt_class",
    "order",
    "utterances",
}


@register_checkpoint_hooks
class Bomb:
    """A recoverable that kills the process in the middle of a save."""

    def __init__(self, save: int) -> None:
        self.left = save

    @mark_as_saver
    def save(self, path: Path) -> None:
        """Write half a file, and die if it is time."""
        self.left -= 1
        Path(path).write_text("half", encoding="utf-8")
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool) -> None:
        """Nothing is to be restored."""


class ToyBrain(SafeBrain):
    """Predicts the mean of its input, with dropout, feature dropping and moving statistics."""

    ranking: ClassVar[dict[str, str]] = {"min_key": "WER"}
    batches = 0
    forwards = 0

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Draw a random number: a resumed epoch must not have drawn it twice."""
        torch.rand(())

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """The normalized, masked input through the layers."""
        self.forwards += stage == sb.Stage.TRAIN
        x_BTD, lengths_B = batch.features
        if self.fault(stage) == "nan_input":
            x_BTD = x_BTD * torch.nan
        x_BTD = self.modules.normalize(x_BTD, lengths_B, epoch=self.epoch)
        if stage == sb.Stage.TRAIN:
            x_BTD = self.hparams.drop(x_BTD)
        return self.modules.layers(x_BTD).mean(dim=1).squeeze(1)

    def compute_objectives(
        self, predictions: torch.Tensor, batch: PaddedBatch, stage: sb.Stage
    ) -> torch.Tensor:
        """Squared error, with the fault that is due."""
        loss = (predictions - batch.features.data.mean(dim=(1, 2))).square().mean()
        fault = self.fault(stage)
        if fault == "nan_loss":
            loss = loss * torch.nan
        elif fault == "nan_gradient":  # the square root has an infinite slope at 0
            loss = loss + (predictions.sum() * 0).sqrt()
        return loss

    def fault(self, stage: sb.Stage) -> str | None:
        """The kind of fault that is due on this rank, if any."""
        faults = self.hparams.faults
        due = faults.get(self.batches, faults.get("all"))
        here = stage == sb.Stage.TRAIN and current_rank() == self.hparams.fault_rank
        return due if here else None

    def on_fit_batch_start(self, batch: PaddedBatch, should_step: bool) -> None:
        """Die if it is time; mark the batch as unreadable if it should be."""
        if self.optimizer_step == self.hparams.kill_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        self.batches += 1
        if self.fault(sb.Stage.TRAIN) == "empty_batch":
            batch.is_empty = True

    def on_fit_batch_end(
        self, batch: PaddedBatch, outputs: Any, loss: torch.Tensor, should_step: bool
    ) -> None:
        """Log the loss to the last bit."""
        entry = {"epoch": self.epoch, "batch": self.step, "loss": loss.item(), "ids": batch.id}
        with (Path(self.hparams.output_folder) / f"losses-rank{current_rank()}.jsonl").open(
            "a"
        ) as file:
            file.write(json.dumps(entry) + "\n")

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Close the epoch when it is validated."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
        elif stage == sb.Stage.VALID:
            assert epoch is not None
            stats = {"loss": stage_loss, "WER": 100 * stage_loss}
            self.end_epoch(epoch, {"loss": self.train_loss}, stats)
        else:
            self.test_loss = stage_loss


def make_dataset(name: str, utterances: int, size: int, noisy: bool) -> DynamicItemDataset:
    """Random features of 5 to 30 frames; noisy ones draw new random numbers at every reading."""

    def features(index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        x_TD = torch.randn(5 + index % 26, size, generator=generator)
        return x_TD + 0.1 * torch.rand(()) if noisy else x_TD

    rows = {f"{name}-{i}": {"index": i, "duration": 5 + i % 26} for i in range(utterances)}
    return DynamicItemDataset(
        rows,
        dynamic_items=[{"func": features, "takes": "index", "provides": "features"}],
        output_keys=["id", "features"],
    )


def make_train_data(hparams: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The training data in the order asked for, and the options of its loader."""
    dataset = make_dataset("train", hparams["utterances"], hparams["d_model"], noisy=True)
    if hparams["order"] == "plain":
        return dataset, {"batch_size": 3, "shuffle": True}
    if hparams["order"] == "loader":
        loader = DataLoader(dataset, batch_size=3, shuffle=True, collate_fn=PaddedBatch)
        return loader, {}
    sampler = DynamicBatchSampler(dataset, max_batch_length=60, num_buckets=3, shuffle=True)
    return dataset, {"batch_sampler": sampler}


def save_final_state(brain: ToyBrain) -> None:
    """Everything that training has changed, for a comparison bit for bit."""
    state = {
        "model": brain.hparams.model.state_dict(),
        "optimizer": brain.optimizer.state_dict(),
        "schedule": brain.lr_scheduler.n_steps,
        "normalize": [brain.modules.normalize.glob_mean, brain.modules.normalize.glob_std],
        "random": torch.get_rng_state(),
        "curves": brain.history.curves,
        "epochs": [{**epoch, "totals": None} for epoch in brain.history.epochs],
        "steps": brain.optimizer_step,
        "forwards": brain.forwards,
    }
    torch.save(state, Path(brain.hparams.output_folder) / f"final-rank{current_rank()}.pt")


def main(argv: Sequence[str]) -> None:
    """Train, evaluate, report."""
    recipe = load_recipe(argv, SafeBrain.known_keys | READ_HERE, FAULTS)
    hparams = recipe.hparams
    hparams["checkpointer"].add_recoverable("bomb", Bomb(hparams["kill_in_save"]))
    train_data, loader_options = make_train_data(hparams)
    valid_data = make_dataset("valid", 4, hparams["d_model"], noisy=False)
    brain = ToyBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        recipe.run_opts,
        hparams["checkpointer"],
    )
    options = {"batch_size": 2}
    brain.fit(hparams["epoch_counter"], train_data, valid_data, None, loader_options, options)
    if not brain.test_only:
        save_final_state(brain)
    brain.evaluate(valid_data, min_key="WER", test_loader_kwargs=options)
    brain.finish({"test_loss": brain.test_loss})


if __name__ == "__main__":
    run(main)
