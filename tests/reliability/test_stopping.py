"""Ctrl-C, SIGTERM, and a second process in the same folder, while a training is at work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.ranks import TIMEOUT, console_of, start_ranks
from tests.reliability.toy_train import run_toy

TOY = Path(__file__).with_name("toy.yaml")
Start = Callable[..., list[BaseProcess]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a training that does not end by itself; none outlives the test."""
    processes: list[BaseProcess] = []

    def start_toy(name: str, ranks: int = 1) -> list[BaseProcess]:
        argv = [str(TOY), f"--output_folder={tmp_path / name}", "--number_of_epochs=100000"]
        argv += ["--device=cpu", "--distributed_backend=gloo", "--noprogressbar"]
        started = start_ranks(run_toy, ranks, tmp_path / name, argv)
        processes.extend(started)
        return started

    yield start_toy
    for process in processes:
        process.kill()  # does nothing to those that have ended
        process.join()


def wait_for_a_checkpoint(folder: Path, training: list[BaseProcess]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not list(folder.glob("save/CKPT+*")):
        assert all(process.is_alive() for process in training) and time.monotonic() < deadline
        time.sleep(0.05)


def stop(training: list[BaseProcess], number: int, console: Path) -> list[int | None]:
    """Send a signal as terminals and torchrun do, to all; returns how they end."""
    for process in training:
        assert process.pid is not None
        os.kill(process.pid, number)
    for process in training:
        process.join(20)
    assert "Traceback" not in console.read_text()
    return [process.exitcode for process in training]


def told(console: Path, by: str, folder: Path) -> bool:
    """Whether one line says what happened and how to go on."""
    (line,) = [s for s in console.read_text().splitlines() if s.startswith("Stopped by")]
    return line.startswith(f"Stopped by {by}. The last checkpoint is {folder}/save/CKPT+") and (
        line.endswith("the same command goes on from there.")
    )


def test_one_training_and_a_second_in_its_folder(start: Start, tmp_path: Path) -> None:
    """The second one may know the folder by another name."""
    training = start("run")
    folder = tmp_path / "run"
    wait_for_a_checkpoint(folder, training)
    (tmp_path / "again").symlink_to(folder)
    (second,) = start("again")
    second.join(TIMEOUT)
    refused = console_of(tmp_path / "again", 0).read_text()
    assert second.exitcode == 1 and "Traceback" not in refused
    assert f"error: {folder} is in use by process {training[0].pid} on " in refused
    assert training[0].is_alive(), "it does not even notice"
    console = console_of(tmp_path / "run", 0)
    assert stop(training, signal.SIGINT, console) == [130]
    assert told(console, "Ctrl-C", folder)


def test_ranks_end_together(start: Start, tmp_path: Path) -> None:
    """Two ranks count as one in the folder, and neither waits for the other when they are told."""
    training = start("run", ranks=2)
    wait_for_a_checkpoint(tmp_path / "run", training)
    console = console_of(tmp_path / "run", 0)
    assert stop(training, signal.SIGTERM, console) == [143, 143]
    assert told(console, "SIGTERM", tmp_path / "run")
    assert "Stopped" not in console_of(tmp_path / "run", 1).read_text()
