"""Trains a Transformer language model for the recognisers of ASR/transformer.

    python train.py hparams/transformer.yaml --data_folder=/data/LibriSpeech \\
        --lm_text=/data/librispeech-lm-norm.txt.gz \\
        --tokenizer_file=../ASR/transformer/results/branchformer/SummaryMixing/3407/save/tokenizer.model

Any key on top of the YAML file is a flag. The model comes to output_folder/lm, for --lm_folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.training.data.text import TEXT_KEYS, TextData
from summarymixing_modules.training.language_model import LanguageModelBrain
from summarymixing_modules.training.recipe.config import load_recipe, run

KEYS = LanguageModelBrain.known_keys | TEXT_KEYS | {"modules", "opt_class", "checkpointer"}


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    hparams = recipe.hparams
    data = TextData(hparams)
    brain = LanguageModelBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        recipe.run_opts,
        hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        data.train,
        data.valid,
        train_loader_kwargs=data.train_loader,
        valid_loader_kwargs=data.eval_loader,
    )
    metrics: dict[str, float] = {}
    for name, test in data.test.items():
        brain.evaluate(test, **brain.ranking, test_loader_kwargs=dict(data.eval_loader))
        metrics |= {f"{name}_{key.lower()}": value for key, value in brain.test_stats.items()}
    brain.on_evaluate_start(**brain.ranking)
    extra = {"lm_folder": brain.export(data.tokenizer), "train_lines": len(data.train)}
    return brain.finish(metrics, extra=extra)


if __name__ == "__main__":
    run(main)
