"""Trains and tests a model that writes the meaning of speech on SLURP: scenario, action, entities.

    python train.py hparams/branchformer.yaml --data_folder=/data/slurp
    python train.py hparams/branchformer.yaml --data_folder=/data/slurp --attention_type=RoPEMHA
    torchrun --nproc_per_node=4 train.py hparams/branchformer.yaml --data_folder=/data/slurp

Any key on top of the YAML file is a flag. Results: result.json, curves.png and predictions.jsonl in
output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.training.data.semantics import SEMANTICS_KEYS, load_semantics
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.semantics import NO_LANGUAGE_MODEL, SemanticsBrain

KEYS = (SemanticsBrain.known_keys - NO_LANGUAGE_MODEL.keys()) | SEMANTICS_KEYS
load_data = load_semantics  # `summarymixing prepare` calls it, too


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    data = load_data(recipe.hparams)
    brain = SemanticsBrain.from_recipe(recipe, **NO_LANGUAGE_MODEL)
    brain.tokenizer, brain.references = data.tokenizer, data.references
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    extra = {"test_slu_f1": metrics["test_slu_f1"]}  # of the first test split
    return brain.finish(metrics, real_time_factor, extra)


if __name__ == "__main__":
    run(main)
