"""Recipes as several ranks: processes forked from one that has imported everything.

Importing takes most of the time of a short run; torchrun itself is tested in
``tests/recipes/test_tables.py``.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from summarymixing_modules.training.recipe.config import leave_process_group

TIMEOUT = 300  # seconds; a rank that waits for one that is gone would wait for hours

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.ranks",
        "tests.reliability.recipe_run",
        "summarymixing_modules.models.asr.attention_search",
        "summarymixing_modules.models.asr.ctc_search",
        "summarymixing_modules.training.scores.codes",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "torch._dynamo",  # by optimizers
    ]
)


def start_ranks(
    target: Callable[..., None], ranks: int, folder: Path, *arguments: Any
) -> list[BaseProcess]:
    """Start ``target(rank, *arguments)`` on every rank, in the environment that torchrun makes.

    Args:
        target: a function of a module.
        ranks: how many.
        folder: what they print goes to ``<folder>-console<rank>.txt``.
        *arguments: more of the target's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[BaseProcess] = [
        CONTEXT.Process(
            target=_become_rank,
            args=(rank, ranks, port, console_of(folder, rank), target, arguments),
        )
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    return started


def wait_for(processes: Sequence[BaseProcess], folder: Path, expected: int = 0) -> None:
    """Wait until all ranks have ended, which must be with this code."""
    deadline = time.monotonic() + TIMEOUT
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    assert codes == [expected] * len(processes), said_by(folder)


def said_by(folder: Path) -> str:
    """What all ranks have printed."""
    consoles = sorted(folder.parent.glob(f"{folder.name}-console*.txt"))
    return "".join(f"{path.name}:\n{path.read_text()[-6000:]}\n" for path in consoles)


def console_of(folder: Path, rank: int) -> Path:
    """Where a rank prints."""
    return folder.with_name(f"{folder.name}-console{rank}.txt")


def run_on_two_ranks(hparams: Path, folder: Path, *options: str) -> dict[str, Any]:
    """A recipe through its train.py on two ranks; returns result.json's content.

    Args:
        hparams: its YAML file.
        folder: for the results.
        *options: further flags.
    """
    argv = [str(hparams), *options, f"--output_folder={folder}", "--device=cpu"]
    argv += ["--distributed_backend=gloo", "--noprogressbar"]
    wait_for(
        start_ranks(_run_recipe, 2, folder, str(hparams.parents[1] / "train.py"), argv), folder
    )
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result["world_size"] == 2
    return result


def load_script(script: str | Path) -> Any:
    """A train.py, or another script of a recipe, as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _become_rank(
    rank: int,
    ranks: int,
    port: int,
    console: Path,
    target: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    with console.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    target(rank, *arguments)


def _run_recipe(rank: int, train: str, argv: list[str]) -> None:
    del rank
    sys.argv = [train, *argv]
    load_script(train).main(argv)
    leave_process_group()
