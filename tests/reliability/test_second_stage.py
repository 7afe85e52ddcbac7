"""A second stage of a training, with another optimizer, kept up over kills and ranks."""

from __future__ import annotations

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


@pytest.mark.parametrize(("ranks", "kills"), [(1, (9, 7)), (2, (4, 6))])
def test_killed_in_either_stage_and_resumed_is_bit_equal(
    ranks: int, kills: tuple[int, int], runs: Runs
) -> None:
    """Batches at which it is killed are counted from 1 in each process."""
    reference = runs.start(AISHELL, "reference", OPTIONS, ranks).end()
    folder = runs.folder / "killed"
    for kill in kills:
        runs.start(AISHELL, "killed", OPTIONS, ranks, kill_at_batch=kill).end(expected=-9)
    runs.start(AISHELL, "killed", OPTIONS, ranks).end()
    for got, want in zip(final_states(folder, ranks), final_states(reference, ranks), strict=True):
        assert got["forwards"] < want["forwards"], "the last process did not do it all"
        for part in ("model", "optimizers", "normalize", "steps"):
            torch.testing.assert_close(got[part], want[part], rtol=0, atol=0)
    log = (folder / "train_log.txt").read_text().splitlines()
    assert "lr: 1.00e-03" in log[1] and "lr: 1.00e-03" not in log[0]
