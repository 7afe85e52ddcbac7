"""A second stage of a training, with another optimizer, kept up over kills and ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.reliability.conftest import ROOT, Runs, final_states

AISHELL = ROOT / "recipes/AISHELL-1/ASR/transformer/hparams/branchformer.yaml"
#: The first epoch is the first stage.
OPTIONS = {
    "corpus": "librispeech",
    "dev_splits": "[dev-clean]",
    "test_splits": "[test-clean]",
    "token_type": "librispeech_char",
    "output_neurons": 31,
    "local_proj_hid_dim": "[8]",
    "number_of_epochs": 2,
    "second_stage_after": 1,
    "second_lr": 0.001,
    "grad_accumulation_factor": 2,
    "dropout": 0.1,
    "test_beam_size": 2,
    "max_decode_ratio": 0.2,
    "ckpt_interval_steps": 1,
}


def rates(folder: Path) -> list[float]:
    """Learning rates of all steps."""
    return json.loads((folder / "result.json").read_text())["history"]["curves"]["lr"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_in_either_stage_and_resumed_is_bit_equal(ranks: int, runs: Runs) -> None:
    reference = runs.start(AISHELL, "reference", OPTIONS, ranks).end()
    batches = 10 // ranks
    folder = runs.folder / "killed"
    for kill in (batches - 1, batches + 4):
        runs.start(AISHELL, "killed", OPTIONS, ranks, kill_at_batch=kill).end(expected=-9)
    runs.start(AISHELL, "killed", OPTIONS, ranks).end()
    got, want = final_states(folder), final_states(reference)
    for one, other in zip(got, want, strict=True):
        one.pop("forwards", None), other.pop("forwards", None)
        torch.testing.assert_close(one, other, rtol=0, atol=0)
