"""Recipes in processes of their own: killed, resumed, and as several ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import said_by, start_ranks, wait_for
from tests.recipes.tiny import TINY_SIZES, flags_for
from tests.reliability.recipe_run import run_rank

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Started:
    """A run that is under way.

    Attributes:
        processes: its ranks.
        folder: its output folder.
    """

    processes: Sequence[BaseProcess]
    folder: Path

    def end(self, expected: int = 0) -> Path:
        """Wait for all ranks, which must end with this code; returns the output folder."""
        wait_for(self.processes, self.folder, expected)
        return self.folder

    def said(self) -> str:
        """What all ranks have printed."""
        return said_by(self.folder)


class Runs:
    """Starts recipes on a tiny corpus.

    Args:
        corpus: its folder.
        folder: for output folders.
    """

    def __init__(self, corpus: Path, folder: Path) -> None:
        self.corpus, self.folder = corpus, folder
        self.processes: list[BaseProcess] = []

    def start(
        self,
        hparams: Path,
        name: str,
        options: Mapping[str, Any],
        ranks: int = 1,
        **faults: Any,
    ) -> Started:
        """Start a recipe.

        Args:
            hparams: its YAML file.
            name: of its output folder; one that is there is gone on with.
            options: values of flags, beside those that make it tiny.
            ranks: how many processes.
            **faults: see `recipe_run`.
        """
        folder = self.folder / name
        data = {"data_folder": self.corpus, "train_splits": SPLITS}
        if "shards" in options:  # which know both
            data.clear()
        data["output_folder"] = folder
        argv = [str(hparams), *flags_for(hparams, TINY_SIZES | TINY | options), "--device=cpu"]
        argv += [*flags_for(hparams, {}, **data), "--noprogressbar", "--distributed_backend=gloo"]
        argv += [f"--{key}={value}" for key, value in options.items() if key in RUN_OPTIONS]
        spec = {"train": str(hparams.parents[1] / "train.py"), "argv": argv, **faults}
        started = start_ranks(run_rank, ranks, folder, spec)
        self.processes += started
        return Started(started, folder)


SPLITS = "[train-clean-100]"
RUN_OPTIONS = {"ckpt_interval_steps", "nonfinite_patience"}
#: 24 utterances in 10 batches: each of two ranks reads 5.
TINY = {
    "prep_workers": 1,
    "num_buckets": 2,
    "max_batch_length": 8,
    "avoid_if_shorter_than": 0.5,
    "warmup_steps": 2,
    "curve_interval": 1,
    "codes": 32,
    "code_dim": 8,
    "comparison_dim": 8,
    "negatives": 10,
    "precision": "fp32",
}


@pytest.fixture
def runs(corpus: Path, tmp_path: Path) -> Iterator[Runs]:
    """Starts recipes; no process outlives the test."""
    started = Runs(corpus, tmp_path)
    yield started
    for process in started.processes:
        process.kill()  # does nothing to those that have ended
        process.join()


def final_states(folder: Path, ranks: int = 1) -> list[dict[str, Any]]:
    """What the training left in the memory of each rank at its end."""
    files = [folder / f"final-rank{rank}.pt" for rank in range(ranks)]
    return [torch.load(file, weights_only=True) for file in files]


def batches_read(folder: Path) -> list[dict[str, Any]]:
    """The batches that any rank of any process has read in a folder: epoch, batch, ids, loss."""
    files = sorted(folder.glob("read-rank*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
