"""Trains and tests a model that writes the meaning of speech on SLURP: scenario, action, entities.

    python train.py hparams/branchformer.yaml --data_folder=/data/slurp
    python train.py hparams/branchformer.yaml --data_folder=/data/slurp --attention_type=RoPEMHA
    torchrun --nproc_per_node=4 train.py hparams/branchformer.yaml --data_folder=/data/slurp

Any key on top of the YAML file is a flag. Results: result.json, curves.png and predictions.jsonl in
output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.mixers import options_by_mixer
from summarymixing_modules.training.attention_ctc import check_settings
from summarymixing_modules.training.config import (
    load_recipe,
    refuse_foreign_mixer_options,
    run,
)
from summarymixing_modules.training.semantics import (
    NO_LANGUAGE_MODEL,
    SEMANTICS_KEYS,
    SemanticsBrain,
    load_slurp_semantics,
)

KEYS = SemanticsBrain.known_keys - NO_LANGUAGE_MODEL.keys()
KEYS |= SEMANTICS_KEYS | {"modules", "opt_class", "checkpointer"}


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    hparams = {**recipe.hparams, **NO_LANGUAGE_MODEL}
    refuse_foreign_mixer_options(recipe.overrides, hparams["attention_type"], options_by_mixer())
    check_settings(hparams)
    data = load_slurp_semantics(hparams)
    brain = SemanticsBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        recipe.run_opts,
        hparams["checkpointer"],
    )
    brain.tokenizer, brain.references = data.tokenizer, data.references
    brain.fit(
        hparams["epoch_counter"],
        data.datasets.train,
        data.datasets.valid,
        train_loader_kwargs=data.train_loader,
        valid_loader_kwargs=data.eval_loader,
    )
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    extra = {"test_slu_f1": metrics["test_slu_f1"]}  # of the first test split
    return brain.finish(metrics, real_time_factor, extra)


if __name__ == "__main__":
    run(main)
