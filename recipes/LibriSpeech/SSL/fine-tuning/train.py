"""Fine-tunes a pre-trained encoder with CTC on LibriSpeech, or trains a head on a frozen one.

    python train.py hparams/base.yaml --data_folder=/data/LibriSpeech --encoder=my-encoder \\
        --output_folder=results/fine_tuned/my-encoder

The encoder is a bundle of `summarymixing export`, or the output_folder of a training. Any key on
top of the YAML file is a flag: --freeze_encoder=True trains the head only. Results:
result.json and curves.png in output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.bundles.fine_tuning import START_KEYS, start_fine_tuning
from summarymixing_modules.training.data.transcribed import FINE_TUNING_DATA_KEYS, load_transcribed
from summarymixing_modules.training.fine_tuning import FineTuningBrain, check_settings
from summarymixing_modules.training.recipe.config import load_recipe, run

KEYS = FineTuningBrain.known_keys | FINE_TUNING_DATA_KEYS | START_KEYS
load_data = load_transcribed  # `summarymixing prepare` calls it, too


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    hparams = recipe.hparams
    check_settings(hparams, recipe.overrides)
    start = start_fine_tuning(hparams)
    data = load_data(hparams)
    modules = {"model": start.model, "normalize": start.normalize}
    hparams["checkpointer"].add_recoverables(modules)
    brain = FineTuningBrain.from_recipe(recipe, modules=modules, compute_features=start.features)
    brain.tokenizer = data.tokenizer
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    extra = {"test_wer": metrics["test_wer"], "encoder": start.encoder}
    return brain.finish(metrics, real_time_factor, extra)


if __name__ == "__main__":
    run(main)
