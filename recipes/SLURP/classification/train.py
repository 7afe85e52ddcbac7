"""Trains and tests a classifier of utterances, such as of scenario and action on SLURP.

    python train.py hparams/branchformer.yaml --data_folder=/data/slurp
    python train.py hparams/branchformer.yaml --data_folder=/data/slurp --attention_type=RoPEMHA
    torchrun --nproc_per_node=4 train.py hparams/branchformer.yaml --data_folder=/data/slurp

Any key on top of the YAML file is a flag. Results: result.json, curves.png, predictions.jsonl and
confusion_*.csv and .png in output_folder.

Shape suffixes: B batch, T frames, F features, N classes, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import speechbrain as sb
from torch import Tensor

from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.class_loss import class_loss
from summarymixing_modules.training.data.labelled import load_labelled
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.classes import ClassScore

load_data = load_labelled  # `summarymixing prepare` calls it, too


class ClassificationBrain(SafeBrain):
    """Audio → features → encoder → pooling → log-probabilities of the classes of every task.

    ACC is the percentage of utterances of which every task is right.
    """

    ranking = {"max_key": "ACC"}
    headlines = {"test_accuracy": "ACC"}
    architecture_keys = (*SafeBrain.architecture_keys, "classes", "pooling", "labels")

    def compute_forward(self, batch: Any, stage: sb.Stage) -> list[Tensor]:
        """Log-probabilities (B, N) of every task."""
        batch = batch.to(self.device)
        features_BTF, lengths_B = self.modules.features(*batch.sig, self.epoch)
        return self.modules.model(features_BTF, lengths_B)

    def compute_objectives(self, predictions: list[Tensor], batch: Any, stage: sb.Stage) -> Tensor:
        """The sum over tasks of the mean cross-entropy; in evaluation also scores."""
        targets_BK, training = batch.targets.data, stage == sb.Stage.TRAIN
        if not training:
            self.scores["classes"].append(batch.id, batch.wav, predictions, targets_BK)
        return class_loss(predictions, targets_BK, self.hparams.label_smoothing if training else 0)

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """What was predicted, and how much of it is right."""
        data, joint = self.hparams.data, self.option("joint")
        return {"classes": ClassScore(data.labels, data.annotations, joint)}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    data = load_data(recipe.hparams)
    brain = ClassificationBrain.from_recipe(recipe, data=data, labels=data.labels.names)
    brain.extra["unseen_classes"] = data.unseen
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    return brain.finish(metrics, real_time_factor)


if __name__ == "__main__":
    run(main)
