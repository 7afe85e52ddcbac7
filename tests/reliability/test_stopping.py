"""Ctrl-C, SIGTERM, and a second process in the same folder, while a training is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT = 300  # seconds, most of them imports
WITHOUT_END = ("--number_of_epochs=100000",)


def start(folder: Path, *options: str, ranks: int = 1) -> subprocess.Popen[str]:
    """Start the toy training, in a process group of its own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *(torchrun if ranks > 1 else ()), str(HERE / "toy_train.py")]
    command += [str(HERE / "toy.yaml"), f"--output_folder={folder}", "--device=cpu"]
    python_path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*command, "--noprogressbar", "--distributed_backend=gloo", *options],
        env=os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_a_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not list(folder.glob("save/CKPT+*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)


def stop(process: subprocess.Popen[str], number: int) -> str:
    """Send a signal as a terminal does, to all; returns what was printed. Nothing may be left."""
    os.killpg(process.pid, number)
    try:
        output, _ = process.communicate(timeout=60)
        return output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def told(output: str, by: str, folder: Path) -> bool:
    """Whether one line says what happened and how to go on."""
    (line,) = [line for line in output.splitlines() if line.startswith("Stopped by")]
    return line.startswith(f"Stopped by {by}. The last checkpoint is {folder}/save/CKPT+") and (
        line.endswith("the same command goes on from there.")
    )


def test_one_training_and_a_second_in_its_folder(tmp_path: Path) -> None:
    training = start(tmp_path, *WITHOUT_END)
    wait_for_a_checkpoint(tmp_path, training)
    second = start(tmp_path, *WITHOUT_END)
    refused, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 1 and "Traceback" not in refused
    assert f"{tmp_path} is in use by process {training.pid} on " in refused
    assert training.poll() is None, "it does not even notice"
    output = stop(training, signal.SIGINT)
    assert training.returncode == 130 and "Traceback" not in output
    assert told(output, "Ctrl-C", tmp_path)


def test_ranks_end_together(tmp_path: Path) -> None:
    """Two ranks count as one in the folder, and neither waits for the other when they are told."""
    training = start(tmp_path, *WITHOUT_END, ranks=2)
    wait_for_a_checkpoint(tmp_path, training)
    began = time.monotonic()
    output = stop(training, signal.SIGTERM)  # torchrun adds a traceback of its own
    assert time.monotonic() - began < 30, "torchrun had to kill them"
    assert training.returncode != 0 and told(output, "SIGTERM", tmp_path)
    assert "KeyboardInterrupt" not in output and "Terminated" not in output
