"""A fault on one of two ranks: both skip the step, stay equal, and end or stop together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
TIMEOUT = 600  # seconds; a rank that waits for one that is gone would wait for hours

# Batch number (from 1): what happens to it on rank 1. With windows of 2 batches these are the
# windows 1, 3, 5 and 7, of 4 an epoch.
FAULTS = {1: "nan_loss", 6: "nan_gradient", 10: "empty_batch", 14: "nan_input"}


def train_on_two_ranks(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the toy training under torchrun with two processes on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(HERE / "toy_train.py"), str(HERE / "toy.yaml"), f"--output_folder={folder}"]
    command += ["--device=cpu", "--distributed_backend=gloo", "--noprogressbar", *options]
    python_path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, text=True, capture_output=True, timeout=TIMEOUT, check=False
    )


def records(folder: Path) -> list[dict[str, Any]]:
    """The skipped batches on file."""
    lines = (folder / "skipped_batches.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_both_ranks_skip_and_training_ends(tmp_path: Path) -> None:
    """NaN in the loss, in a gradient and in the features, and an empty batch, all on rank 1."""
    faults = json.dumps(FAULTS).replace('"', "")
    done = train_on_two_ranks(
        tmp_path,
        "--order=plain",
        "--utterances=48",
        "--number_of_epochs=3",
        "--fault_rank=1",
        "--faults",
        faults,
    )
    assert done.returncode == 0, done.stderr
    first, second = (
        torch.load(tmp_path / f"final-rank{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for part in ("model", "optimizer", "normalize", "steps"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    for tensor in [*first["model"].values(), *first["normalize"]]:
        assert torch.isfinite(tensor).all()
    # 3 epochs of 8 batches a rank, 2 a step; 4 steps are lost.
    assert first["steps"] == 12 - len(FAULTS)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["skipped_steps"] == len(FAULTS)
    assert result["world_size"] == 2
    assert result["metrics"]["test_loss"] is not None

    told = records(tmp_path)
    reasons = ["loss is nan", "gradient norm is nan", "empty batch", "loss is nan"]
    # Gradients and feature statistics are summed over the ranks: then both ranks are suspects.
    assert [(r["rank"], r["reason"]) for r in told] == [
        (1, reasons[0]),
        (0, reasons[1]),
        (1, reasons[1]),
        (1, reasons[2]),
        (0, reasons[3]),
        (1, reasons[3]),
    ]
    assert [len(r["utterances"]) for r in told] == [3, 6, 6, 3, 3, 3]
    assert [r["epoch"] for r in told] == [1, 1, 1, 2, 2, 2]
    assert all(name in done.stdout for name in told[0]["utterances"]), "the warning names them"
    # The rest of a lost window, on either rank, is not computed: batches 2, 10 and the NaN ones
    # are the only ones missing among the 24 forward passes.
    assert first["forwards"] == second["forwards"] == 24 - 1 - 1


def test_patience_ends_in_one_error_on_all_ranks(tmp_path: Path) -> None:
    """When every step is bad, both ranks stop with the reason, and neither hangs."""
    options = ["--order=plain", "--fault_rank=1", "--faults", "{all: nan_loss}"]
    done = train_on_two_ranks(tmp_path, *options, "--nonfinite_patience=2")
    assert done.returncode != 0
    errors = done.stderr + done.stdout
    assert "3 optimizer steps in a row had to be skipped" in errors
    assert "--nonfinite_patience=2" in errors
    assert errors.count("NonFiniteTrainingError:") >= 2, "one for each rank"
    assert len(records(tmp_path)) == 3
    assert not (tmp_path / "final-rank0.pt").exists()


def test_killed_ranks_resume_bit_equal(tmp_path: Path) -> None:
    """Both ranks are killed in the middle of an epoch; each gets its random numbers back."""
    options = ["--order=plain", "--utterances=48", "--number_of_epochs=2", "--fault_rank=-1"]
    options.append("--ckpt_interval_steps=5")  # saved after 6 batches: when windows are full
    reference, folder = tmp_path / "reference", tmp_path / "killed"
    assert train_on_two_ranks(reference, *options).returncode == 0
    assert train_on_two_ranks(folder, *options, "--kill_at_step=3").returncode != 0
    (random_states,) = folder.glob("save/CKPT+*/random_state-rank1.ckpt")
    rank_0 = torch.load(random_states.with_name("random_state.ckpt"), weights_only=True)
    rank_1 = torch.load(random_states, weights_only=True)
    assert not torch.equal(rank_0["torch"], rank_1["torch"]), "or one file would do"
    resumed = train_on_two_ranks(folder, *options)
    assert resumed.returncode == 0, resumed.stderr
    for rank in (0, 1):
        name = f"final-rank{rank}.pt"
        got, want = (torch.load(f / name, weights_only=True) for f in (folder, reference))
        assert got.pop("forwards") < want.pop("forwards")
        if rank == 1:  # curves and averages are saved by rank 0 alone, and are rank 0's
            for state in (got, want):
                del state["curves"], state["epochs"]
        torch.testing.assert_close(got, want, rtol=0, atol=0)
