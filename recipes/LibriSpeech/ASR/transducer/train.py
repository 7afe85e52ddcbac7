"""Trains and tests a streaming transducer on LibriSpeech.

    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech
    torchrun --nproc_per_node=4 train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech \
        --test_only --streaming_matrix=True

The last command decodes the test sets at every chunk size and left context. Any key on top of the
YAML file is a flag. Results: result.json, curves.png and streaming_matrix_* in output_folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import if_main_process

from summarymixing_modules.training.data.transcribed import DATA_KEYS, ASRData, load_transcribed
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.streaming_matrix import (
    format_matrix,
    streaming_matrix,
    write_matrix,
)
from summarymixing_modules.training.transducer import TransducerBrain, check_chunked

MATRIX_KEYS = {"streaming_matrix", "matrix_chunk_sizes", "matrix_left_contexts"}
KEYS = TransducerBrain.known_keys | DATA_KEYS | MATRIX_KEYS | {"streaming", "transformer"}
load_data = load_transcribed  # `summarymixing prepare` calls it, too


def main(argv: Sequence[str]) -> dict[str, object]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, KEYS)
    hparams = recipe.hparams
    for flag in ("streaming", "streaming_matrix"):
        if hparams[flag]:
            check_chunked(hparams["transformer"].encoder, f"--{flag}=True")
    data = load_data(hparams)
    brain = TransducerBrain.from_recipe(recipe)
    brain.tokenizer = data.tokenizer
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    extra: dict[str, Any] = {"test_wer": metrics["test_wer"]}  # of the first test split
    if hparams["streaming_matrix"]:
        extra["streaming_matrix"] = run_matrix(brain, data, hparams)
    return brain.finish(metrics, real_time_factor, extra)


def run_matrix(
    brain: TransducerBrain, data: ASRData, hparams: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Prints and writes the error rates of every test set over chunk sizes and left contexts."""
    found = {}
    for name, test_set in data.datasets.test.items():
        cells = streaming_matrix(
            brain,
            test_set,
            data.eval_loader,
            hparams["matrix_chunk_sizes"],
            hparams["matrix_left_contexts"],
        )
        found[name] = [asdict(cell) for cell in cells]
        if if_main_process():
            write_matrix(cells, Path(hparams["output_folder"]), name)
            print(format_matrix(cells, name))
    return found


if __name__ == "__main__":
    run(main)
