"""Trains an encoder without transcripts, with BEST-RQ, on Libri-Light.

    python train.py hparams/base.yaml --data_folder=/data/Libri-Light
    python train.py hparams/base.yaml --data_folder=/data/Libri-Light --attention_type=RoPEMHA
    torchrun --nproc_per_node=8 train.py hparams/base.yaml --data_folder=/data/Libri-Light

Any key on top of the YAML file and of its base is a flag. Results: result.json and curves.png in
output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.training.best_rq import BestRQBrain
from summarymixing_modules.training.data.audio import LIBRILIGHT_KEYS, load_audio
from summarymixing_modules.training.recipe.config import load_recipe, run

KEYS = BestRQBrain.known_keys | LIBRILIGHT_KEYS
load_data = load_audio  # `summarymixing prepare` calls it, too


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    data = load_data(recipe.hparams)
    brain = BestRQBrain.from_recipe(recipe)
    brain.fit_on(data)
    return brain.finish(brain.evaluate_all(data.datasets.valid, data.eval_loader))


if __name__ == "__main__":
    run(main)
