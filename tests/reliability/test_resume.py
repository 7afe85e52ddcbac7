"""A recipe that is killed and resumed ends where an uninterrupted run ends, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reliability.conftest import ROOT, Runs, batches_read, final_states

ASR = ROOT / "recipes" / "LibriSpeech" / "ASR"
#: With speed perturbation and SpecAugment; 10 batches an epoch, of which two make a step.
OPTIONS = {
    "number_of_epochs": 2,
    "grad_accumulation_factor": 2,
    "streaming": True,
    "padding_mode": "zeros",
    "chunkwise_prob": 0.5,
    "dropout": 0.1,
    "token_type": "librispeech_char",
    "test_splits": "[test-clean]",
    "ckpt_interval_steps": 1,
}
WITH_DECODER = {"output_neurons": 31, "test_beam_size": 2, "max_decode_ratio": 0.2}


def saves(folder: Path) -> list[str]:
    """Names of all checkpoints in a run's folder, half ones too."""
    return sorted(path.name for path in (folder / "save").glob("*+*"))


@pytest.mark.parametrize(
    ("recipe", "more"), [("CTC", {"output_neurons": 29}), ("transformer", WITH_DECODER)]
)
def test_killed_twice_and_resumed_is_bit_equal(
    recipe: str, more: dict[str, Any], runs: Runs
) -> None:
    """Once when a batch arrives, once in the middle of a save, both in the middle of an epoch."""
    hparams, options = ASR / recipe / "hparams" / "conformer.yaml", OPTIONS | more
    options |= {"noise_manifest": runs.corpus, "noise_prob": 0.5}
    uninterrupted = runs.start(hparams, "reference", options)
    folder = runs.start(hparams, "killed", options, kill_at_batch=5).end(expected=-9)
    (whole,) = saves(folder)  # after 4 batches
    assert whole.startswith("CKPT+")
    runs.start(hparams, "killed", options, kill_in_save=2).end(expected=-9)
    (half,) = [name for name in saves(folder) if name.startswith(".saving+")]
    assert list((folder / "save" / half).glob("CKPT+*/bomb.ckpt")), "it was killed while saving"
    third = runs.start(hparams, "killed", options)
    third.end()
    assert f"Removed {folder / 'save' / half}" in third.said()
    assert f"Loading a checkpoint from {folder / 'save'}/CKPT+" in third.said()
    assert all(name.startswith("CKPT+") for name in saves(folder))

    reference = uninterrupted.end()
    (got,), (want,) = final_states(folder), final_states(reference)
    assert got.pop("forwards") < want.pop("forwards"), "the last process did not do it all"
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    first = {(entry["epoch"], entry["batch"]): entry for entry in batches_read(reference)}
    read = batches_read(folder)
    assert {(entry["epoch"], entry["batch"]) for entry in read} == set(first)
    for entry in read:  # what came after the last checkpoint was read twice
        assert entry == first[entry["epoch"], entry["batch"]]
