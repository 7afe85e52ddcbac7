"""Codes of a random projection: exact, in blocks, whatever the precision around them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from summarymixing_modules.models.ssl import random_projection
from summarymixing_modules.models.ssl.naive import naive_random_projection_codes
from summarymixing_modules.models.ssl.random_projection import random_projection_codes


def make(frames: int, features: int, codebooks: int, codes: int, dim: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    codebook = normalize(torch.randn(codebooks, codes, dim), dim=-1)
    return [torch.randn(frames, features), torch.randn(codebooks, features, dim), codebook]


@pytest.mark.parametrize("frames", [0, 1, 7, 300])
@pytest.mark.parametrize("codebooks", [1, 3])
def test_equals_the_nearest_code(
    frames: int, codebooks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_projection, "ROWS_CPU", 64)
    arguments = make(frames, 20, codebooks, 97, 16)
    codes_MQ = random_projection_codes(*arguments)
    assert codes_MQ.shape == (frames, codebooks)
    assert torch.equal(codes_MQ, naive_random_projection_codes(*arguments))


def test_autocast_does_not_change_the_codes() -> None:
    arguments = make(200, 320, 1, 1024, 16)
    with torch.autocast("cpu", torch.bfloat16):
        codes = random_projection_codes(*arguments)
    assert torch.equal(codes, random_projection_codes(*arguments))


def test_the_scale_of_a_frame_does_not_matter() -> None:
    features, projection, codebook = make(50, 20, 1, 97, 16)
    assert torch.equal(
        random_projection_codes(features, projection, codebook),
        random_projection_codes(1e3 * features, projection, codebook),
    )
