"""Trains and tests a classifier of spoken words on Speech Commands.

    python train.py hparams/conformer.yaml --data_folder=/data/speech_commands_v0.02
    python train.py hparams/conformer_12.yaml --data_folder=/data/speech_commands_v0.02
    python train.py hparams/conformer.yaml --data_folder=/data/speech_commands_v0.02 \\
        --attention_type=RoPEMHA

Any key on top of the YAML file is a flag. Results: result.json, curves.png, predictions.jsonl and
confusion_*.csv and .png in output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.training.classification import ClassificationBrain
from summarymixing_modules.training.data.labelled import COMMANDS_KEYS, load_labelled
from summarymixing_modules.training.recipe.config import load_recipe, run

KEYS = ClassificationBrain.known_keys | COMMANDS_KEYS
load_data = load_labelled  # `summarymixing prepare` calls it, too


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    data = load_data(recipe.hparams)
    brain = ClassificationBrain.from_recipe(recipe, labels=data.labels.names)
    brain.labels, brain.annotations = data.labels, data.annotations
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    extra = {"test_accuracy": metrics["test_accuracy"], "unseen_classes": data.unseen}
    return brain.finish(metrics, real_time_factor, extra)


if __name__ == "__main__":
    run(main)
