"""A training from shards, killed again and again, ends where one ends that never was."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from summarymixing_modules.cli import main
from tests.reliability.conftest import ROOT, SPLITS, Runs, batches_read, final_states

BEST_RQ = ROOT / "recipes" / "LibriSpeech" / "SSL" / "BEST-RQ" / "hparams" / "base.yaml"
OPTIONS = {"num_encoder_layers": 1, "ckpt_interval_steps": 1}
KILLS = 10


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus in several shards."""
    folder = tmp_path_factory.mktemp("shards") / "shards"
    data = [f"--data_folder={corpus}", f"--train_splits={SPLITS}", "--prep_workers=1"]
    assert main(["shard", str(BEST_RQ), *data, f"--shards={folder}", "--shard_size=0.3"]) == 0
    assert len(list(folder.glob("train/*.tar"))) > 2
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_ten_times(ranks: int, shards: Path, runs: Runs) -> None:
    """On one rank the reference reads files; on two, both go through windows of shards."""
    epochs = 3 * ranks  # enough for all kills
    options: dict[str, Any] = OPTIONS | {"shards": shards, "number_of_epochs": epochs}
    options |= {"shard_window": 2} if ranks > 1 else {"grad_accumulation_factor": 2}
    files = {key: value for key, value in options.items() if key != "shards"}
    reference = runs.start(BEST_RQ, "reference", options if ranks > 1 else files, ranks)
    draw = random.Random(0)
    for _ in range(KILLS):
        batch = draw.randint(2, 3)  # of the process
        runs.start(BEST_RQ, "killed", options, ranks, kill_at_batch=batch).end(expected=-9)
    killed = runs.start(BEST_RQ, "killed", options, ranks).end()
    states = zip(final_states(killed, ranks), final_states(reference.end(), ranks), strict=True)
    for rank, (got, want) in enumerate(states):
        assert got.pop("forwards") < want.pop("forwards")
        if rank > 0:  # curves and averages are saved by rank 0 alone, and are rank 0's
            for state in (got, want):
                del state["curves"], state["epochs"]
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    times = Counter(name for entry in batches_read(reference.folder) for name in entry["ids"])
    assert len(times) == 24 and set(times.values()) == {epochs}
