"""Batch norm on two ranks, on CPUs: what one process finds for all utterances together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ranks import start_ranks, wait_for
from tests.unit.models import ranks_batch_norm as script

Found = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What every rank has found, in one launch."""
    folder = tmp_path_factory.mktemp("ranks")
    wait_for(start_ranks(script.run_rank, 2, folder / "found", folder), folder / "found")
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
