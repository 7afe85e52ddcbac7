"""Trains and tests a probe on a frozen encoder: one task of MP3S (arXiv 2308.14456).

    python train.py hparams/librispeech_asr_bilstm.yaml --encoder=ENCODER --data_folder=LIBRISPEECH
    python train.py hparams/iemocap_linear.yaml --encoder=ENCODER --data_folder=IEMOCAP --fold=1

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import is_distributed_initialized
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.corpora.iemocap import FOLDS
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.brains import ProbingBrain, unchanged
from summarymixing_modules.probing.encoder import frozen_encoder
from summarymixing_modules.probing.probe import Probe
from summarymixing_modules.probing.tasks import (
    PROBING_RECIPE_KEYS,
    ProbingTask,
    evaluate_probe,
    find_task,
    number_of_outputs,
)
from summarymixing_modules.training.data.audio import AudioData
from summarymixing_modules.training.data.labelled import ClassificationData
from summarymixing_modules.training.data.transcribed import ASRData
from summarymixing_modules.training.recipe.config import Recipe, load_recipe, run

logger = get_logger(__name__)

#: Entries of result.json that count, by test set.
SUMMED = ("test_utterances", "test_missing")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, PROBING_RECIPE_KEYS)
    task = find_task(recipe.hparams["task"], recipe.overrides)
    if recipe.hparams.get("fold") == "all":
        return probe_folds(argv, Path(recipe.hparams["output_folder"]), task)
    return probe(recipe, task)


def load_data(hparams: Mapping[str, Any]) -> AudioData:
    """What a probe trains and tests on; `summarymixing prepare` calls it, too."""
    return find_task(hparams["task"], ()).load(hparams)


def probe(recipe: Recipe, task: ProbingTask) -> dict[str, Any]:
    """Trains and tests one probe."""
    hparams = recipe.hparams
    encoder = frozen_encoder(hparams["encoder"], hparams["sample_rate"], hparams["trust_run"])
    data = load_data(hparams)
    hparams["encoder_digest"] = encoder.digest()
    hparams["outputs"] = number_of_outputs(data)
    head = task.head(
        hparams["probe"], encoder.state_size, hparams["outputs"], hparams["head_options"]
    )
    model = Probe(encoder.num_states, head)
    hparams["checkpointer"].add_recoverable("model", model)
    brain = task.brain(
        {"encoder": encoder, "model": model},
        hparams=hparams,
        run_opts=recipe.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    if isinstance(data, ASRData):
        brain.tokenizer = data.tokenizer
    if isinstance(data, ClassificationData):
        brain.labels, brain.annotations = data.labels, data.annotations
    brain.fit_on(data)
    metrics, real_time_factor = evaluate_probe(brain, data)
    unchanged(encoder, hparams["encoder_digest"])
    return brain.finish(metrics, real_time_factor, describe(brain, task, metrics))


def describe(brain: ProbingBrain, task: ProbingTask, metrics: dict[str, float]) -> dict[str, Any]:
    """What tables and plots read of a run."""
    return {
        "task": brain.hparams.name,
        "probe": brain.hparams.probe,
        "encoder": str(brain.hparams.encoder),
        "metric": task.metric,
        "score": metrics[task.metric],
        "layer_weights": brain.layer_weights(),
    }


def probe_folds(argv: Sequence[str], folder: Path, task: ProbingTask) -> dict[str, Any]:
    """Trains and tests one probe for each fold, in ``folder/foldN``; averages their scores."""
    if is_distributed_initialized():
        raise InputError("--fold=all runs the folds one after another: with torchrun, name one.")
    kept = _without(argv, ("--fold", "--output_folder"))
    results = []
    for fold in FOLDS:
        logger.info(f"Fold {fold} of {len(FOLDS)}")
        results.append(main([*kept, f"--fold={fold}", f"--output_folder={folder}/fold{fold}"]))
    scores = [result["score"] for result in results]
    layers = zip(*(result["layer_weights"] for result in results), strict=True)
    total = {key: results[0][key] for key in ("task", "probe", "encoder", "metric")} | {
        "architecture": results[0]["architecture"],
        "score": statistics.fmean(scores),
        "standard_deviation": statistics.stdev(scores),
        "scores": scores,
        "layer_weights": [statistics.fmean(shares) for shares in layers],
        "train_seconds": sum(result["train_seconds"] for result in results),
        **{key: _summed([result[key] for result in results]) for key in SUMMED},
    }
    write_atomically(folder / "result.json", json.dumps(total, indent=2) + "\n")
    print(f"Result of {len(FOLDS)} folds: {folder / 'result.json'}")
    return total


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counts by name, of all folds together."""
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def _without(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """A command line without some options, whether written ``--a=1`` or ``--a 1``."""
    kept: list[str] = []
    skip_value = False
    for token in argv:
        if skip_value and not token.startswith("--"):
            skip_value = False
            continue
        skip_value = token in options
        if token.partition("=")[0] not in options:
            kept.append(token)
    return kept


if __name__ == "__main__":
    run(main)
