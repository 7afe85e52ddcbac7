"""Every promise of mixers/base.py about one call of ``forward``; no mixer is named here."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from summarymixing_modules.mixers import (
    MixerForm,
    MixerSize,
    UnsupportedByMixer,
    mixer_spec,
)
from tests.conformance.forms import (
    HEADS,
    D,
    assert_close,
    grad_of,
    make,
    noise,
    unless_refused,
)
from tests.tensors import padding_of

CHUNKS = [(1, None), (4, None), (4, 0), (4, 2), (5, 1), (64, 1)]


@pytest.mark.parametrize("length", [1, 2, 13])
def test_alone_equals_beside_longer_ones(form: MixerForm, length: int) -> None:
    mixer = make(form)
    x_BTD = noise(3, 29, D)
    alone = x_BTD[:1, :length].clone().requires_grad_()
    beside = x_BTD.clone().requires_grad_()
    target = noise(1, length, D, seed=2)
    (mixer(alone) * target).sum().backward()
    weights_alone = [p.grad.clone() for p in mixer.parameters() if p.grad is not None]
    mixer.zero_grad()
    y_BTD = mixer(beside, padding_of(length, 29, 20))
    (y_BTD[:1, :length] * target).sum().backward()
    weights_beside = [p.grad for p in mixer.parameters() if p.grad is not None]
    assert_close("output", y_BTD[:1, :length], mixer(alone))
    grad_BTD = grad_of(beside)
    assert_close("input gradient", grad_BTD[:1, :length], grad_of(alone))
    assert grad_BTD[0, length:].abs().max() == 0 and grad_BTD[1:].abs().max() == 0
    for index, pair in enumerate(zip(weights_beside, weights_alone, strict=True)):
        if pair[1].norm() > 1e-4:
            assert_close(f"gradient of weight {index}", *pair, tolerance=1e-4)


def test_content_of_padding_does_not_matter(form: MixerForm) -> None:
    mixer, padding = make(form), padding_of(9, 17)
    x_BTD = noise(2, 17, D)
    loud = x_BTD.clone()
    loud[0, 9:] = 1e3
    assert_close("output", mixer(loud, padding)[~padding], mixer(x_BTD, padding)[~padding])


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_fully_padded_row_stays_finite(form: MixerForm, chunk_size: int | None) -> None:
    mixer = make(form)
    x_BTD = noise(2, 11, D).requires_grad_()
    if chunk_size and not mixer.capabilities.chunked:
        pytest.skip("not chunked")
    y_BTD = mixer(x_BTD, padding_of(11, 0), chunk_size, 1 if chunk_size else None)
    y_BTD[0].sum().backward()
    assert y_BTD.isfinite().all()
    assert grad_of(x_BTD).isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters() if p.grad is not None)


@pytest.mark.parametrize(("chunk_size", "left"), CHUNKS)
def test_chunk_equals_full_context_on_what_it_sees(
    form: MixerForm, chunk_size: int, left: int | None
) -> None:
    """The definition of chunk masks: each chunk, computed on the frames that it may see."""
    mixer, lengths = make(form), (23, 14)
    x_BTD, padding = noise(2, 23, D), padding_of(*lengths)
    with unless_refused(mixer, "chunked"):
        y_BTD = mixer(x_BTD, padding, chunk_size, left)
    for row, length in enumerate(lengths):
        for start in range(0, length, chunk_size):
            stop = min(start + chunk_size, length)
            first = 0 if left is None else max(0, start - left * chunk_size)
            want = mixer(x_BTD[row : row + 1, first:stop])[0, start - first :]
            assert_close(f"row {row} chunk at {start}", y_BTD[row, start:stop], want)


@pytest.mark.parametrize(("chunk_size", "left"), [(4, None), (4, 1), (1, None)])
def test_gradient_never_leaves_the_visible_frames(
    form: MixerForm, chunk_size: int, left: int | None
) -> None:
    mixer = make(form)
    x_BTD = noise(1, 19, D).requires_grad_()
    with unless_refused(mixer, "chunked"):
        y_BTD = mixer(x_BTD, None, chunk_size, left)
    for t in range(19):
        (grad,) = torch.autograd.grad(y_BTD[0, t] @ noise(D, seed=3), x_BTD, retain_graph=True)
        touched = grad[0].abs().amax(-1) > 1e-9
        chunk = t // chunk_size
        first = 0 if left is None else max(0, (chunk - left) * chunk_size)
        assert not touched[:first].any() and not touched[(chunk + 1) * chunk_size :].any()
        assert touched[t]


def test_causal_by_gradient(form: MixerForm) -> None:
    if not make(form).capabilities.causal:
        with pytest.raises(UnsupportedByMixer, match="Mixers that can: .+"):
            make(form, causal=True)
        return
    mixer = make(form, causal=True)
    x_BTD = noise(1, 11, D).requires_grad_()
    y_BTD = mixer(x_BTD)
    for t in range(11):
        (grad,) = torch.autograd.grad(y_BTD[0, t] @ noise(D, seed=3), x_BTD, retain_graph=True)
        touched = grad[0].abs().amax(-1) > 1e-9
        assert touched[t] and not touched[t + 1 :].any()
    with pytest.raises(ValueError, match="chunk_size=8 contradicts causal=True"):
        mixer(x_BTD, None, 8)


def test_sees_the_future_when_bidirectional(form: MixerForm) -> None:
    mixer = make(form)
    x_BTD = noise(1, 11, D).requires_grad_()
    (grad,) = torch.autograd.grad(mixer(x_BTD)[0, 2] @ noise(D, seed=3), x_BTD)
    sees_future = bool((grad[0, 3:].abs().amax(-1) > 1e-9).any())
    assert sees_future == mixer.capabilities.bidirectional


@pytest.mark.parametrize("chunk", [(None, None), (4, 2)])
def test_bfloat16_against_float32(form: MixerForm, chunk: tuple[int | None, int | None]) -> None:
    """Within 1 %, under autocast and as a layer in bfloat16, also far from the first frame."""
    mixer, padding = make(form), padding_of(600, 375)
    if chunk[0] and not mixer.capabilities.chunked:
        pytest.skip("not chunked")
    x_BTD = noise(2, 600, D)
    with torch.no_grad():
        want = mixer(x_BTD, padding, *chunk)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = mixer(x_BTD, padding, *chunk)
    assert_close("autocast output", got[~padding], want[~padding], tolerance=0.01)
    half = copy.deepcopy(mixer).bfloat16()
    x_half = x_BTD.bfloat16().requires_grad_()
    got = half(x_half, padding, *chunk)
    got[~padding].sum().backward()
    assert got.dtype == torch.bfloat16
    assert_close("bfloat16 output", got[~padding], want[~padding], tolerance=0.01)
    assert grad_of(x_half).isfinite().all()


def test_state_dict_round_trip(form: MixerForm) -> None:
    mixer, x_BTD = make(form), noise(2, 9, D)
    buffer = io.BytesIO()
    torch.save(mixer.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)
    other = form.build(MixerSize(D, HEADS, 64)).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(mixer(x_BTD), other(x_BTD))


def test_declares_what_the_registry_says(form: MixerForm) -> None:
    spec = mixer_spec(form.attention_type)
    assert set(form.options) <= set(spec.options)
    assert make(form).capabilities.positions == spec.capabilities.positions
    assert make(form).capabilities == form.capabilities


def test_dropout_acts_in_training_only(form: MixerForm) -> None:
    mixer, x_BTD = make(form, dropout=0.5), noise(2, 9, D)
    assert torch.equal(mixer(x_BTD), mixer(x_BTD))
    mixer.train()(x_BTD).sum().backward()
    assert all(p.grad is not None for p in mixer.parameters()), "a parameter takes no part"


def test_shapes_that_do_not_fit_are_refused(form: MixerForm) -> None:
    mixer, x_BTD = make(form), noise(2, 5, D)
    with pytest.raises(ValueError, match="got no frames"):
        mixer(x_BTD[:, :0])
    with pytest.raises(ValueError, match=rf"expects \(batch, time, {D}\) and got \(2, 5, 8\)"):
        mixer(x_BTD[..., :8])
    with pytest.raises(ValueError, match=r"of shape \(2, 5\), and is torch.bool of shape \(2, 4\)"):
        mixer(x_BTD, padding_of(4, 4))
