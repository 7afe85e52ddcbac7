"""Block masks: share, blocks, padding, per utterance or shared."""

from __future__ import annotations

import pytest
import torch

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.ssl.block_masks import draw_block_masks

LENGTHS = torch.tensor([1000, 403, 40, 4, 3])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_share_blocks_and_padding(generator: torch.Generator) -> None:
    shares = torch.zeros(len(LENGTHS))
    for _ in range(200):
        mask_BT = draw_block_masks(LENGTHS, 1001, 0.15, 4, generator=generator)
        assert mask_BT.shape == (5, 1001)
        for row, length in zip(mask_BT, LENGTHS, strict=True):
            assert not row[length // 4 * 4 :].any()
            blocks = row[: length // 4 * 4].view(-1, 4)
            assert torch.equal(blocks.all(1), blocks.any(1))
        shares += mask_BT.sum(1) / LENGTHS / 200
    torch.testing.assert_close(shares[:3], torch.full((3,), 0.6), atol=0.01, rtol=0)
    assert shares[3] > 0.99 and shares[4] == 0  # one block at least; none fits


def test_utterances_differ_and_draws_differ(generator: torch.Generator) -> None:
    lengths = torch.tensor([400, 400])
    first = draw_block_masks(lengths, 400, 0.15, 4, generator=generator)
    second = draw_block_masks(lengths, 400, 0.15, 4, generator=generator)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, second)


def test_every_block_is_as_likely(generator: torch.Generator) -> None:
    counts = torch.zeros(10)
    for _ in range(2000):
        counts += draw_block_masks(torch.tensor([40]), 40, 0.1, 4, generator=generator)[0, ::4]
    assert (counts / 2000 - 0.4).abs().max() < 0.05


def test_the_shared_mask_is_that_of_the_shortest(generator: torch.Generator) -> None:
    lengths = torch.tensor([1000, 100])
    mask_BT = draw_block_masks(lengths, 1000, 0.15, 4, shared=True, generator=generator)
    assert torch.equal(mask_BT[0], mask_BT[1])
    assert not mask_BT[:, 100:].any() and mask_BT[0].sum() == 60


@pytest.mark.parametrize(("prob", "block"), [(0.0, 4), (0.3, 4), (0.15, 0)])
def test_bad_settings_are_told(prob: float, block: int) -> None:
    with pytest.raises(InputError, match="mask_prob.*mask_length"):
        draw_block_masks(LENGTHS, 1000, prob, block)
