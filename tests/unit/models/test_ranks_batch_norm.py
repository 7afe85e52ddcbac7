"""Batch norm on two ranks, on CPUs: what one process finds for all utterances together."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

SCRIPT = Path(__file__).parent / "ranks_batch_norm.py"
TIMEOUT = 300  # seconds; a rank that waits for one that is gone would wait for hours
Found = dict[str, dict[str, Tensor]]


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("ranks_batch_norm", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What every rank has found, in one launch."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", script.NETWORKS)
def test_two_ranks_are_one_batch(name: str, ranks: list[Found]) -> None:
    """One utterance beside three, or padding alone: outputs, gradients (DDP's mean), statistics."""
    joint = script.trained(script.make(name), list(script.NETWORKS[name][1]), 0)
    outputs = torch.cat([found[name].pop("output") for found in ranks])
    torch.testing.assert_close(outputs, joint.pop("output"), rtol=1e-6, atol=1e-6)
    for found in ranks:
        assert found[name].keys() == joint.keys()
        for key, want in joint.items():
            scale = 2 if key.startswith("grad") else 1
            got = scale * found[name][key]
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, msg=f"{key} of {name}")
