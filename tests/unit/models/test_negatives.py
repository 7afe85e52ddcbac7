"""Negatives: drawn from the same utterance, and the fast logits against the naive ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from summarymixing_modules.models.ssl.naive import naive_contrastive_logits
from summarymixing_modules.models.ssl.negatives import (
    contrastive_logits,
    distinct_candidates,
    draw_negatives,
)

COUNTS = torch.tensor([40, 13, 2, 1, 0])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_negatives_are_other_frames_of_the_utterance(generator: torch.Generator) -> None:
    index_BNK = draw_negatives(COUNTS, 40, 50, generator)
    assert index_BNK.shape == (5, 40, 50)
    own_N1 = torch.arange(40)[:, None]
    for index_NK, count in zip(index_BNK, COUNTS.tolist(), strict=True):
        assert 0 <= index_NK.min() and index_NK.max() <= max(count - 1, 0)
        if count > 1:
            assert (index_NK[:count] != own_N1[:count]).all()
        assert (index_NK[count:] == 0).all()


def test_negatives_are_uniform(generator: torch.Generator) -> None:
    index_NK = draw_negatives(torch.tensor([6]), 6, 50_000, generator)[0]
    for own, index_K in enumerate(index_NK):
        share_N = torch.bincount(index_K, minlength=6) / 50_000
        wanted_N = torch.full((6,), 0.2).index_fill(0, torch.tensor([own]), 0.0)
        torch.testing.assert_close(share_N, wanted_N, atol=0.01, rtol=0)


def batch(generator: torch.Generator, codes: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    predicted, targets = torch.randn(2, 5, 40, 8, generator=generator, dtype=torch.float64)
    codes_BN = torch.randint(codes, (5, 40), generator=generator)
    return predicted, targets, codes_BN, draw_negatives(COUNTS, 40, 20, generator)


def test_logits_and_gradients_equal_the_naive_ones(generator: torch.Generator) -> None:
    predicted, targets, codes_BN, negatives_BNK = batch(generator)
    results = []
    for function in (contrastive_logits, naive_contrastive_logits):
        leaves = [x.clone().requires_grad_() for x in (predicted, targets)]
        logits_BNK = function(*leaves, codes_BN, negatives_BNK, 0.1)
        logits_BNK.logsumexp(2).sum().backward()
        results.append((logits_BNK.detach(), *(x.grad for x in leaves)))
    for fast, naive in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive)


def test_a_negative_with_the_targets_code_is_left_out(generator: torch.Generator) -> None:
    predicted, targets, codes_BN, negatives_BNK = batch(generator)
    logits_BNK = contrastive_logits(predicted, targets, codes_BN, negatives_BNK, 0.1)
    same_BNK = torch.stack(
        [
            codes_N[index_NK] == codes_N[:, None]
            for codes_N, index_NK in zip(codes_BN, negatives_BNK, strict=True)
        ]
    )
    assert torch.equal(logits_BNK[..., 1:].isinf(), same_BNK) and same_BNK.any()
    assert logits_BNK[..., 0].isfinite().all()


def test_similarities_are_float32_under_autocast(generator: torch.Generator) -> None:
    predicted, targets, codes_BN, negatives_BNK = batch(generator)
    rounded = [x.bfloat16() for x in (predicted, targets)]
    want = contrastive_logits(rounded[0].float(), rounded[1].float(), codes_BN, negatives_BNK, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_logits(*rounded, codes_BN, negatives_BNK, 0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want)


def test_distinct_candidates_count_codes_once(generator: torch.Generator) -> None:
    _, _, codes_BN, negatives_BNK = batch(generator)
    found_BN = distinct_candidates(codes_BN, negatives_BNK)
    for row in range(5):
        for frame in range(40):
            indices = negatives_BNK[row, frame].tolist()
            codes = {int(codes_BN[row, index]) for index in indices} | {int(codes_BN[row, frame])}
            assert found_BN[row, frame] == len(codes)
