"""A run that is killed and resumed ends where an uninterrupted run ends, to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
TIMEOUT = 600  # seconds for one process, most of it imports
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts the toy training in a process of its own; none outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def start_process(folder: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "toy_train.py"), str(HERE / "toy.yaml")]
        command += [f"--output_folder={folder}", "--device=cpu", "--noprogressbar", *options]
        python_path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        process.kill()  # does nothing to those that have ended
        process.wait()


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    """Wait for a process and return what it printed."""
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == expected, output
    return output


def final_state(folder: Path) -> dict[str, Any]:
    """What the training left in memory at its end."""
    state: dict[str, Any] = torch.load(folder / "final-rank0.pt", weights_only=True)
    return state


def losses(folder: Path) -> dict[tuple[int, int], list[Any]]:
    """Every logging of each batch's loss and utterances, by epoch and batch."""
    logged: dict[tuple[int, int], list[Any]] = {}
    for line in (folder / "losses-rank0.jsonl").read_text().splitlines():
        entry = json.loads(line)
        logged.setdefault((entry["epoch"], entry["batch"]), []).append(
            (entry["loss"], entry["ids"])
        )
    return logged


def assert_same_training(folder: Path, reference: Path) -> None:
    """All that training changes is equal to the last bit, and so is every loss on the way."""
    got, want = final_state(folder), final_state(reference)
    assert got.pop("forwards") < want.pop("forwards"), "the last process did not do it all"
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    once = {key: values[0] for key, values in losses(reference).items()}
    logged = losses(folder)
    assert set(logged) == set(once)
    for key, values in logged.items():  # batches after the last checkpoint were done twice
        assert all(value == once[key] for value in values), key


def checkpoints(folder: Path) -> list[str]:
    """Names of all that lies in the checkpoint folder, hidden or not."""
    return sorted(path.name for path in (folder / "save").iterdir())


# Epochs have 19 and 9 batches. Checkpoints are due after 5 batches, but wait for the window of 2
# batches to be full, so the second epoch's first one comes after these optimizer steps.
@pytest.mark.parametrize(("order", "step"), [("dynamic", 9 + 3), ("plain", 4 + 3)])
def test_killed_and_resumed_is_bit_equal(
    tmp_path: Path, start: Start, order: str, step: int
) -> None:
    """Killed right after a checkpoint in the middle of an epoch, then resumed."""
    options = [f"--order={order}", "--ckpt_interval_steps=5"]
    reference, folder = tmp_path / "reference", tmp_path / "killed"
    uninterrupted = start(reference, *options)
    finish(start(folder, *options, f"--kill_at_step={step}"), expected=-signal.SIGKILL)
    saved = list((folder / "save").glob("CKPT+*/brain.ckpt"))
    assert any(f"optimizer_step: {step}\n" in file.read_text() for file in saved)
    finish(start(folder, *options))
    finish(uninterrupted)
    assert_same_training(folder, reference)


def test_killed_in_the_middle_of_a_save(tmp_path: Path, start: Start) -> None:
    """The half checkpoint is never listed or loaded; it is removed, and training goes on."""
    reference, folder = tmp_path / "reference", tmp_path / "killed"
    options = ["--order=plain", "--grad_accumulation_factor=1", "--ckpt_interval_steps=4"]
    uninterrupted = start(reference, *options)
    finish(start(folder, *options, "--kill_in_save=4"), expected=-signal.SIGKILL)
    (half,) = [name for name in checkpoints(folder) if name.startswith(".saving+")]
    assert list((folder / "save" / half).glob("CKPT+*/bomb.ckpt")), "it was killed while saving"
    whole = [name for name in checkpoints(folder) if name.startswith("CKPT+")]
    assert whole
    output = finish(start(folder, *options))
    assert f"Removed {folder / 'save' / half}" in output
    assert f"Loading a checkpoint from {folder / 'save'}/CKPT+" in output
    assert not [name for name in checkpoints(folder) if not name.startswith("CKPT+")]
    finish(uninterrupted)
    assert_same_training(folder, reference)
