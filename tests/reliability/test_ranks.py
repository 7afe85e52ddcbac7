"""Two ranks: a fault on one of them, layers that only one of them drops, kills, fewer and more."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.reliability.conftest import ROOT, Runs, batches_read, final_states

SSL = ROOT / "recipes" / "LibriSpeech" / "SSL"
BEST_RQ = SSL / "BEST-RQ" / "hparams" / "base.yaml"
WAV2VEC2 = SSL / "wav2vec2" / "hparams" / "base.yaml"
EPOCHS = {"number_of_epochs": 3, "num_encoder_layers": 3}
#: Each rank has 5 batches an epoch: windows of 2, 2 and 1.
TWOS = EPOCHS | {"layerdrop_prob": 0.5, "grad_accumulation_factor": 2}
#: Windows of 4 and 1.
FOURS = EPOCHS | {"layerdrop_prob": 0.1, "grad_accumulation_factor": 4, "cnn_channels": 32}


def assert_equal_ranks(states: list[dict[str, Any]]) -> None:
    """All ranks have the same finite weights, and everything that steps depend on."""
    first, *others = states
    for part in ("model", "optimizers", "schedule", "normalize", "steps"):
        for other in others:
            torch.testing.assert_close(first[part], other[part], rtol=0, atol=0)
    for tensor in [*first["model"].values(), *first["normalize"][1:]]:
        assert torch.isfinite(tensor).all()


def test_both_ranks_skip_and_training_ends(runs: Runs) -> None:
    """NaN in the loss, in a gradient and in the audio, and an empty batch, all on rank 1."""
    faults = {"1": "nan_loss", "7": "nan_gradient", "8": "empty_batch", "15": "nan_input"}
    done = runs.start(BEST_RQ, "run", TWOS, 2, faults=faults, fault_rank=1)
    states = final_states(done.end(), 2)
    assert_equal_ranks(states)
    assert states[0]["steps"] == 3 * 3 - len(faults)
    result = json.loads((done.folder / "result.json").read_text())
    assert result["skipped_steps"] == len(faults) and result["world_size"] == 2
    assert result["metrics"]["valid_loss"] is not None

    told = [json.loads(line) for line in (done.folder / "skipped_batches.jsonl").open()]
    # Gradients and feature statistics are summed over the ranks: then both ranks are suspects.
    assert [(r["epoch"], r["rank"], r["reason"]) for r in told] == [
        (1, 1, "loss is nan"),
        (2, 0, "gradient norm is nan"),
        (2, 1, "gradient norm is nan"),
        (2, 1, "empty batch"),
        (3, 0, "loss is nan"),
        (3, 1, "loss is nan"),
    ]
    read = [json.loads(line)["ids"] for line in (done.folder / "read-rank1.jsonl").open()]
    suspects = [read[0], read[5] + read[6], read[7], read[14]]
    assert [r["utterances"] for r in told if r["rank"] == 1] == suspects
    assert all(name in done.said() for name in read[0]), "the warning names them"
    # The rest of a lost window, on either rank, is not computed: batches 2, 8 and 9 are missing.
    assert states[0]["forwards"] == states[1]["forwards"] == 15 - 3


def test_the_last_window_of_an_epoch_is_lost(runs: Runs) -> None:
    """With wav2vec 2.0, whose windows of four leave one batch to the epoch's end."""
    options = {"faults": {"5": "nan_input"}, "fault_rank": 1}
    states = final_states(runs.start(WAV2VEC2, "run", FOURS, 2, **options).end(), 2)
    assert_equal_ranks(states)
    assert states[0]["steps"] == 3 * 2 - 1


def test_patience_ends_in_one_error_on_all_ranks(runs: Runs) -> None:
    """When every step is bad, both ranks stop with the reason, and neither hangs."""
    options = TWOS | {"nonfinite_patience": 2}
    bad = runs.start(BEST_RQ, "run", options, 2, faults={"all": "nan_loss"}, fault_rank=1)
    folder, errors = bad.end(expected=1), bad.said()
    assert errors.count("NonFiniteTrainingError: 3 optimizer steps in a row had to be skipped") == 2
    assert "--nonfinite_patience=2" in errors
    assert len((folder / "skipped_batches.jsonl").read_text().splitlines()) == 3
    assert not (folder / "final-rank0.pt").exists()


def assert_read_once(folder: Path) -> None:
    """The second epoch, which was killed and gone on with, has read every utterance once."""
    read = [entry["ids"] for entry in batches_read(folder) if entry["epoch"] == 2]
    times = Counter(name for ids in read for name in ids)
    assert len(times) == 24 and set(times.values()) == {1}


def test_killed_ranks_go_on_as_two_or_one(runs: Runs, tmp_path: Path) -> None:
    """In the middle of an epoch, two to the last bit; one reads what the two have not read."""
    options = TWOS | {"number_of_epochs": 2, "ckpt_interval_steps": 1}
    reference = runs.start(BEST_RQ, "reference", options, 2).end()
    # Saved after the first window of the second epoch; the next batch kills.
    killed = runs.start(BEST_RQ, "killed", options, 2, kill_at_batch=5 + 3).end(expected=-9)
    *_, random_states = sorted(killed.glob("save/CKPT+*/random_state-rank1.ckpt"))
    rank_0 = torch.load(random_states.with_name("random_state.ckpt"), weights_only=True)
    rank_1 = torch.load(random_states, weights_only=True)
    assert not torch.equal(rank_0["torch"], rank_1["torch"]), "or one file would do"
    shutil.copytree(killed, tmp_path / "one")

    alone = runs.start(BEST_RQ, "one", options | {"grad_accumulation_factor": 4})
    resumed = final_states(runs.start(BEST_RQ, "killed", options, 2).end(), 2)
    for rank, (got, want) in enumerate(zip(resumed, final_states(reference, 2), strict=True)):
        assert got.pop("forwards") < want.pop("forwards")
        if rank == 1:  # curves and averages are saved by rank 0 alone, and are rank 0's
            for state in (got, want):
                del state["curves"], state["epochs"]
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert_read_once(alone.end())


def test_a_killed_process_goes_on_as_two(runs: Runs) -> None:
    """After a window of four of the ten batches, three are left for each of them."""
    options = TWOS | {"number_of_epochs": 2, "ckpt_interval_steps": 1}
    alone = options | {"grad_accumulation_factor": 4}
    folder = runs.start(BEST_RQ, "run", alone, kill_at_batch=10 + 5).end(expected=-9)
    states = final_states(runs.start(BEST_RQ, "run", options, 2).end(), 2)
    assert_equal_ranks(states)
    assert states[0]["steps"] == 3 + 1 + 2 and states[0]["forwards"] == 3
    assert_read_once(folder)
