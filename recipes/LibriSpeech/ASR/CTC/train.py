"""Trains and tests an acoustic model with CTC on LibriSpeech.

    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech --attention_type=RoPEMHA
    torchrun --nproc_per_node=8 train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.training.ctc import CTCBrain
from summarymixing_modules.training.data.transcribed import DATA_KEYS, load_transcribed
from summarymixing_modules.training.recipe.config import load_recipe, run

KEYS = CTCBrain.known_keys | DATA_KEYS
load_data = load_transcribed  # `summarymixing prepare` calls it, too


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    data = load_data(recipe.hparams)
    brain = CTCBrain.from_recipe(recipe)
    brain.tokenizer = data.tokenizer
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    extra = {"test_wer": metrics["test_wer"]}  # of the first test split, where people look
    return brain.finish(metrics, real_time_factor, extra)


if __name__ == "__main__":
    run(main)
