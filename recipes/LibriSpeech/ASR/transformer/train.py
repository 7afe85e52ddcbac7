"""Trains and tests a recogniser with a decoder and CTC on LibriSpeech.

    python train.py hparams/branchformer.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech --attention_type=RoPEMHA
    torchrun --nproc_per_node=8 train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.training.attention_ctc import AttentionCTCBrain
from summarymixing_modules.training.data.transcribed import DATA_KEYS, load_transcribed
from summarymixing_modules.training.lm_folder import (
    check_lm_folder,
    load_language_model,
    save_tokenizer,
)
from summarymixing_modules.training.recipe.config import load_recipe, run

KEYS = AttentionCTCBrain.known_keys | DATA_KEYS
load_data = partial(load_transcribed, bos_eos=True)  # `summarymixing prepare` calls it, too


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    hparams = recipe.hparams
    if hparams["lm_folder"] is not None:
        check_lm_folder(hparams["lm_folder"])
    data = load_data(hparams)
    # Under one name whatever its type, for the recipe of language models.
    run_on_main(save_tokenizer, [data.tokenizer, Path(hparams["save_folder"])])
    brain = AttentionCTCBrain.from_recipe(recipe)
    brain.tokenizer = data.tokenizer
    if hparams["lm_folder"] is not None:
        brain.language_model = load_language_model(hparams["lm_folder"], data.tokenizer)
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    extra = {"test_wer": metrics["test_wer"]}  # of the first test split, where people look
    return brain.finish(metrics, real_time_factor, extra)


if __name__ == "__main__":
    run(main)
