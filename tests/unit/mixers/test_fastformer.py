"""Fastformer against its textbook form in float64, its sizes, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from summarymixing_modules.encoders import ConformerEncoder
from summarymixing_modules.mixers import Fastformer, UnsupportedByMixer
from summarymixing_modules.mixers.naive import naive_fastformer
from tests.tensors import padding_of, relative_error

D = 24


def sharpened(nhead: int) -> Fastformer:
    """A layer whose softmaxes are far from a plain mean."""
    mixer = Fastformer(D, nhead)
    for score in (mixer.query_score, mixer.key_score):
        nn.init.normal_(score.weight, std=3.0)
    return mixer


@pytest.mark.parametrize("nhead", [1, 4, 6])
@pytest.mark.parametrize("length", [1, 2, 7, 37, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_the_textbook(nhead: int, length: int, padded: bool) -> None:
    torch.manual_seed(length)
    mixer = sharpened(nhead)
    exact = copy.deepcopy(mixer).double()
    full = padding_of(length, max(1, length // 2), max(1, length - 1))
    padding = full if padded else torch.zeros_like(full)
    x_BTD = torch.randn(3, length, D)
    x_fast, x_exact = x_BTD.requires_grad_(), x_BTD.detach().double().requires_grad_()
    got = mixer(x_fast, padding if padded else None)
    want = naive_fastformer(exact, x_exact, padding if padded else None)
    seen = torch.randn(3, length, D).masked_fill(padding[..., None], 0.0)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert relative_error(got[~padding], want[~padding]) < 1e-5
    assert relative_error(x_fast.grad, x_exact.grad) < 1e-5
    for (name, p), q in zip(mixer.named_parameters(), exact.parameters(), strict=True):
        # One frame leaves a softmax nothing to choose: its scores get no gradient.
        if length > 1 or "score" not in name:
            assert relative_error(p.grad, q.grad) < 1e-5, name


def test_pools_one_head_at_a_time() -> None:
    """With one-hot pooling, features of a head come from the frame that this head chose."""
    mixer = Fastformer(4, 2)
    for layer in (mixer.query, mixer.key, mixer.output):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        # Head 0 chooses by feature 0; head 1 by feature 1, which is outside its own features.
        mixer.query_score.weight.copy_(1e4 * torch.eye(4)[:2])
        mixer.key_score.weight.zero_()
    x_1TD = torch.tensor([[[9.0, 1.0, 2.0, 3.0], [1.0, 9.0, 4.0, 5.0]]])
    query_D = torch.tensor([9.0, 1.0, 4.0, 5.0])
    key_D = query_D * x_1TD[0].mean(dim=0)
    want_1TD = key_D * x_1TD + x_1TD
    assert torch.allclose(mixer(x_1TD), want_1TD)


def test_large_scores_stay_finite_in_bfloat16() -> None:
    torch.manual_seed(0)
    mixer = Fastformer(D, 4)
    nn.init.normal_(mixer.query_score.weight, std=1e4)
    x_BTD = torch.randn(2, 50, D, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_BTD = mixer(x_BTD, padding_of(50, 0))
    y_BTD.square().sum().backward()
    assert x_BTD.grad is not None
    assert y_BTD.isfinite().all() and x_BTD.grad.isfinite().all()


@pytest.mark.parametrize(("layers", "d_model", "millions"), [(12, 616, 93.9), (24, 920, 312.5)])
def test_parameters_of_the_published_models(layers: int, d_model: int, millions: float) -> None:
    """arXiv 2409.02596: Conformer, convolutional front end, and a head of 8192 classes."""
    with torch.device("meta"):
        encoder = ConformerEncoder(layers, d_model, 2048, 8, attention_type="fastformer")
    front = (9 + 1) * 128 + 2 * 40 * 128 + (9 * 128 + 1) * 32 + 2 * 20 * 32 + 641 * d_model
    total = sum(p.numel() for p in encoder.parameters()) + front + (d_model + 1) * 8192
    assert total / 1e6 == pytest.approx(millions, abs=0.05)


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="enc_dim=10 must be a multiple of nhead=4"):
        Fastformer(10, 4)
    with pytest.raises(UnsupportedByMixer, match="Fastformer is not causal"):
        Fastformer(D, 4, causal=True)
    mixer = Fastformer(D, 4)
    with pytest.raises(UnsupportedByMixer, match="chunk_size=4.*Mixers that can: .*SummaryMixing"):
        mixer(torch.randn(1, 8, D), chunk_size=4)
    with pytest.raises(UnsupportedByMixer, match="not streaming"):
        mixer.initial_state(1)
