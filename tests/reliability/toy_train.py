"""Trains toy.yaml, which is over at once or goes on for as long as one likes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import speechbrain as sb
import torch

from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.recipe.config import load_recipe, run


class ToyBrain(SafeBrain):
    """One layer."""

    def compute_forward(self, batch: torch.Tensor, stage: sb.Stage) -> torch.Tensor:
        """The layer's output."""
        return self.modules.layer(batch)

    def compute_objectives(
        self, predictions: torch.Tensor, batch: torch.Tensor, stage: sb.Stage
    ) -> torch.Tensor:
        """Its square."""
        return predictions.square().mean()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Close the epoch, which is not validated."""
        assert epoch is not None
        self.end_epoch(epoch, {"loss": stage_loss})


def main(argv: Sequence[str]) -> None:
    """Train and report."""
    hparams = (recipe := load_recipe(argv, __file__)).hparams
    brain = ToyBrain.from_recipe(recipe)
    data = torch.randn(12, hparams["d_model"])
    brain.fit(hparams["epoch_counter"], data, train_loader_kwargs={"batch_size": 3})
    brain.finish({})


def run_toy(rank: int, argv: Sequence[str]) -> None:
    """What a process does that is started with a command line."""
    del rank
    sys.argv = [__file__, *argv]
    run(main)
