"""Every promise of mixers/base.py, for every form of every registered mixer; none is named here."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from summarymixing_modules.mixers import (
    Mixer,
    MixerSize,
    UnsupportedByMixer,
    build_mixer,
    mixer_names,
    mixer_spec,
)

D, HEADS = 32, 4
FORMS = [
    pytest.param((name, dict(options)), id=form)
    for name in mixer_names()
    for form, options in mixer_spec(name).variants.items()
]
CHUNKS = [(1, None), (4, None), (4, 0), (4, 2), (5, 1), (64, 1)]


def make(form: tuple[str, dict], causal: bool = False, dropout: float = 0.0) -> Mixer:
    """A mixer of one form, in eval mode, with fixed weights."""
    torch.manual_seed(0)
    name, options = form
    mixer = build_mixer(name, MixerSize(D, HEADS, 64, dropout, causal=causal), **options)
    return mixer.eval()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[str, dict]:
    return request.param


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def padding_of(*lengths: int) -> Tensor:
    """(B, T) mask, True = padded."""
    return torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]


def grad_of(x_BTD: Tensor) -> Tensor:
    assert x_BTD.grad is not None
    return x_BTD.grad


def assert_close(name: str, got: Tensor, want: Tensor, tolerance: float = 2e-5) -> None:
    assert got.shape == want.shape, name
    assert got.isfinite().all(), f"{name} is not finite"
    error = (got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-12)
    assert error < tolerance, f"{name}: relative error {error:.2e}"


@contextmanager
def unless_refused(mixer: Mixer, capability: str) -> Iterator[None]:
    """What is declared must work; what is not must be refused by name, and the test ends there."""
    if getattr(mixer.capabilities, capability):
        yield
        return
    with pytest.raises(UnsupportedByMixer, match="Mixers that can: .+"):
        yield
    pytest.skip(f"not {capability}, and says so")


@pytest.mark.parametrize("length", [1, 2, 13])
def test_alone_equals_beside_longer_ones(form: tuple[str, dict], length: int) -> None:
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


def test_content_of_padding_does_not_matter(form: tuple[str, dict]) -> None:
    mixer, padding = make(form), padding_of(9, 17)
    x_BTD = noise(2, 17, D)
    loud = x_BTD.clone()
    loud[0, 9:] = 1e3
    assert_close("output", mixer(loud, padding)[~padding], mixer(x_BTD, padding)[~padding])


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_fully_padded_row_stays_finite(form: tuple[str, dict], chunk_size: int | None) -> None:
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
    form: tuple[str, dict], chunk_size: int, left: int | None
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
    form: tuple[str, dict], chunk_size: int, left: int | None
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


def test_causal_by_gradient(form: tuple[str, dict]) -> None:
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


def test_sees_the_future_when_bidirectional(form: tuple[str, dict]) -> None:
    mixer = make(form)
    x_BTD = noise(1, 11, D).requires_grad_()
    (grad,) = torch.autograd.grad(mixer(x_BTD)[0, 2] @ noise(D, seed=3), x_BTD)
    sees_future = bool((grad[0, 3:].abs().amax(-1) > 1e-9).any())
    assert sees_future == mixer.capabilities.bidirectional


@pytest.mark.parametrize(("chunk_size", "left"), [(1, None), (4, None), (4, 0), (4, 2), (9, 1)])
@torch.no_grad()
def test_streaming_equals_offline(
    form: tuple[str, dict], chunk_size: int, left: int | None
) -> None:
    """Ragged last chunk, two streams of different lengths, and a state that is not changed."""
    mixer, padding = make(form), padding_of(22, 15)
    x_BTD = noise(2, 22, D)
    with unless_refused(mixer, "streaming"):
        state = mixer.initial_state(2, left)
    chunks = []
    for start in range(0, 22, chunk_size):
        part = slice(start, start + chunk_size)
        again = copy.deepcopy(state)
        y_BTD, new_state = mixer.step(x_BTD[:, part], state, padding[:, part])
        assert torch.equal(y_BTD, mixer.step(x_BTD[:, part], again, padding[:, part])[0])
        state = new_state
        chunks.append(y_BTD)
    want = mixer(x_BTD, padding, chunk_size, left)
    assert_close("stream", torch.cat(chunks, 1)[~padding], want[~padding])


def test_state_of_a_linear_mixer_does_not_grow(form: tuple[str, dict]) -> None:
    mixer = make(form)
    if not (mixer.capabilities.linear_time and mixer.capabilities.streaming):
        pytest.skip("not a linear streaming mixer")
    state, sizes = mixer.initial_state(1), []
    for _ in range(12):
        _, state = mixer.step(noise(1, 4, D), state)
        sizes.append(_numbers_in(state))
    assert len(set(sizes[1:])) == 1, sizes


def _numbers_in(state: object) -> int:
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, tuple | list):
        return sum(_numbers_in(part) for part in state)
    return 0


class _LargestTensor(TorchFunctionMode):
    """Records the largest tensor that any operation returns."""

    largest = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("chunk", [None, (8, 2), (8, None)])
def test_memory_slope(form: tuple[str, dict], chunk: tuple[int, int | None] | None) -> None:
    """The largest tensor of a linear mixer grows with T, not with T²."""
    mixer = make(form)
    if not mixer.capabilities.linear_time or (chunk and not mixer.capabilities.chunked):
        pytest.skip("does not claim linear time here")
    sizes = []
    for length in (512, 2048):
        with _LargestTensor() as record, torch.no_grad():
            mixer(noise(1, length, D), padding_of(length), *(chunk or (None, None)))
        sizes.append(record.largest)
    slope = math.log(sizes[1] / sizes[0]) / math.log(4)
    assert slope <= 1.1, sizes


@pytest.mark.parametrize("chunk", [(None, None), (4, 2)])
def test_bfloat16_autocast_against_float32(
    form: tuple[str, dict], chunk: tuple[int | None, int | None]
) -> None:
    mixer, padding = make(form), padding_of(40, 25)
    if chunk[0] and not mixer.capabilities.chunked:
        pytest.skip("not chunked")
    x_BTD = noise(2, 40, D)
    want = mixer(x_BTD, padding, *chunk)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mixer(x_BTD, padding, *chunk)
    assert_close("autocast output", got[~padding], want[~padding], tolerance=0.04)
    half = copy.deepcopy(mixer).bfloat16()
    x_half = x_BTD.bfloat16().requires_grad_()
    got = half(x_half, padding, *chunk)
    got[~padding].sum().backward()
    assert got.dtype == torch.bfloat16
    assert_close("bfloat16 output", got[~padding], want[~padding], tolerance=0.04)
    assert grad_of(x_half).isfinite().all()


def test_state_dict_round_trip(form: tuple[str, dict]) -> None:
    mixer, x_BTD = make(form), noise(2, 9, D)
    buffer = io.BytesIO()
    torch.save(mixer.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)
    name, options = form
    other = build_mixer(name, MixerSize(D, HEADS, 64), **options).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(mixer(x_BTD), other(x_BTD))


@pytest.mark.parametrize("device", ["meta", "cuda"])
@pytest.mark.parametrize("chunk", [(None, None), (4, 2)])
def test_no_tensor_is_made_on_the_cpu(
    form: tuple[str, dict], device: str, chunk: tuple[int | None, int | None]
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mixer = make(form).to(device)
    if chunk[0] and not mixer.capabilities.chunked:
        pytest.skip("not chunked")
    x_BTD, padding = noise(2, 9, D).to(device), padding_of(9, 4).to(device)
    y_BTD = mixer(x_BTD, padding, *chunk)
    assert y_BTD.device.type == device and y_BTD.shape == x_BTD.shape


@pytest.mark.parametrize("chunk", [(None, None), (4, 2)])
def test_compiles_without_graph_breaks(
    form: tuple[str, dict], chunk: tuple[int | None, int | None]
) -> None:
    mixer, padding = make(form), padding_of(12, 7)
    if chunk[0] and not mixer.capabilities.chunked:
        pytest.skip("not chunked")
    x_BTD = noise(2, 12, D).requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    got = compiled(x_BTD, padding, *chunk)
    (grad,) = torch.autograd.grad(got[~padding].square().sum(), x_BTD)
    want = mixer(x_BTD, padding, *chunk)
    (grad_want,) = torch.autograd.grad(want[~padding].square().sum(), x_BTD)
    assert_close("compiled output", got[~padding], want[~padding])
    assert_close("compiled gradient", grad, grad_want, tolerance=1e-4)


def test_declares_what_the_registry_says(form: tuple[str, dict]) -> None:
    name, options = form
    assert set(options) <= set(mixer_spec(name).options)
    assert make(form).capabilities.positions == mixer_spec(name).capabilities.positions


def test_dropout_acts_in_training_only(form: tuple[str, dict]) -> None:
    mixer, x_BTD = make(form, dropout=0.5), noise(2, 9, D)
    assert torch.equal(mixer(x_BTD), mixer(x_BTD))
    mixer.train()(x_BTD).sum().backward()
    assert all(p.grad is not None for p in mixer.parameters()), "a parameter takes no part"
