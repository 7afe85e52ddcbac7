"""Block-sparse attention against one dense mask, filled block after block in plain Python."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from summarymixing_modules.mixers import BigBird, UnsupportedByMixer
from summarymixing_modules.mixers.naive import naive_bigbird
from summarymixing_modules.ops.block_sparse import DRAWS
from summarymixing_modules.ops.naive import naive_key_blocks
from tests import tensors
from tests.tensors import padding_of

relative_error = partial(tensors.relative_error, floor=1e-2)
D, HEADS = 16, 2
PATTERNS = [(4, 1, 1, 1), (4, 1, 2, 3), (3, 0, 0, 2), (5, 2, 1, 0), (1, 1, 1, 2), (16, 1, 2, 3)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("length", [1, 7, 33, 90])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_the_mask(pattern: tuple[int, int, int, int], length: int, padded: bool) -> None:
    torch.manual_seed(length)
    mixer = BigBird(D, HEADS, *pattern)
    exact = copy.deepcopy(mixer).double()
    padding = padding_of(length, (length + 1) // 2, 0) if padded else None
    x_BTD = torch.randn(3, length, D)
    x_fast, x_exact = x_BTD.requires_grad_(), x_BTD.detach().double().requires_grad_()
    got, want = mixer(x_fast, padding), naive_bigbird(exact, x_exact, padding)
    seen = torch.randn(3, length, D)
    if padding is not None:
        seen = seen.masked_fill(padding[..., None], 0.0)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert got.isfinite().all()
    assert relative_error(got * (seen != 0), want * (seen != 0)) < 1e-5
    assert relative_error(x_fast.grad, x_exact.grad) < 1e-5
    for (name, weight), other in zip(mixer.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(weight.grad, other.grad) < 1e-5, name


def test_pattern_by_gradient() -> None:
    """Frames of global, window and random blocks are touched, and no other."""
    torch.manual_seed(3)
    mixer = BigBird(D, HEADS, 4, 1, 1, 2)
    for length in (80, 61):
        x_BTD = torch.randn(1, 80, D, requires_grad=True)
        y_BTD = mixer(x_BTD, padding_of(80, length)[1:])
        blocks = -(-length // 4)
        for block in (0, 1, 7, blocks - 1):
            (grad,) = torch.autograd.grad(y_BTD[0, 4 * block].sum(), x_BTD, retain_graph=True)
            touched = set((grad[0].abs().amax(-1) > 1e-9).nonzero().flatten().tolist())
            chosen = naive_key_blocks(block, blocks, mixer.draws_PV, 1, 1)
            assert touched == {t for t in range(length) if t // 4 in chosen}
            assert block == 0 or len(chosen) == 1 + 2 + len(
                {b for b in (block - 1, block, block + 1) if 0 < b < blocks}
            )


def test_random_blocks_are_uniform() -> None:
    draws_PV = torch.randint(DRAWS, (1024, 3), generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(40)
    for number in range(1024):
        counts[naive_key_blocks(20, 40, draws_PV[number : number + 1], 1, 2)] += 1
    others = torch.cat([counts[2:19], counts[22:]])
    assert others.sum() == 3 * 1024
    assert (others / others.mean() - 1).abs().max() < 0.4


def test_enough_blocks_make_full_attention() -> None:
    from summarymixing_modules.mixers import RoPEMHA

    torch.manual_seed(0)
    sparse, full = BigBird(D, HEADS, 4, 1, 1, 20), RoPEMHA(D, HEADS)
    full.in_proj_weight = sparse.projections.in_proj_weight
    full.out_proj, full.scale = sparse.projections.out_proj, sparse.scale
    x_BTD, padding = torch.randn(2, 50, D), padding_of(50, 23)
    torch.testing.assert_close(sparse(x_BTD, padding)[~padding], full(x_BTD, padding)[~padding])


def test_pattern_belongs_to_the_weights_and_survives_averaging() -> None:
    mixers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        mixers.append(BigBird(D, HEADS))
    assert torch.equal(mixers[0].draws_PV, mixers[1].draws_PV)
    assert not torch.equal(mixers[0].draws_PV, mixers[2].draws_PV)
    state = mixers[0].state_dict()
    state["draws_PV"] = (10 * state["draws_PV"]) / 10.0
    mixers[2].load_state_dict(state)
    assert torch.equal(mixers[0].draws_PV, mixers[2].draws_PV)
    assert torch.equal(mixers[0].bfloat16().draws_PV, mixers[1].draws_PV)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="block_size=0"):
        BigBird(D, HEADS, 0)
    with pytest.raises(ValueError, match="random_blocks=-1"):
        BigBird(D, HEADS, random_blocks=-1)
    with pytest.raises(ValueError, match="nhead=16 heads the same even number"):
        BigBird(D, 16)
    with pytest.raises(UnsupportedByMixer, match="causal=True"):
        BigBird(D, HEADS, causal=True)
    with pytest.raises(UnsupportedByMixer, match="chunk_size=4"):
        BigBird(D, HEADS)(torch.zeros(1, 8, D), chunk_size=4)
