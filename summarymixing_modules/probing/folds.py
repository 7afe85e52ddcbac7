"""One probe for each fold of a corpus, and the mean of their scores."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import is_distributed_initialized
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.corpora.iemocap import FOLDS
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError

logger = get_logger(__name__)

#: Entries of result.json that count, by test set.
SUMMED = ("test_utterances", "test_missing")


def train_folds(
    train: Callable[[Sequence[str]], Mapping[str, Any]], argv: Sequence[str], output_folder: str
) -> dict[str, Any]:
    """Trains and tests one probe for each fold, in ``output_folder/foldN``; averages their scores.

    Args:
        train: trains one from its command line; returns the content of its result.json.
        argv: the command line that asks for all folds.
        output_folder: of all.

    Returns:
        the content of ``output_folder/result.json``.

    Raises:
        InputError: with several processes.
    """
    if is_distributed_initialized():
        raise InputError("--fold=all runs the folds one after another: with torchrun, name one.")
    kept, folder = _without(argv, ("--fold", "--output_folder")), Path(output_folder)
    results = []
    for fold in FOLDS:
        logger.info(f"Fold {fold} of {len(FOLDS)}")
        results.append(train([*kept, f"--fold={fold}", f"--output_folder={folder}/fold{fold}"]))
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
