"""Growth of memory with T, devices and the compiler, for every form of every registered mixer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from summarymixing_modules.bench.measure import kept_bytes, peak_bytes
from summarymixing_modules.mixers import Mixer, MixerForm, mixer_spec
from tests.conformance.forms import D, assert_close, make, noise
from tests.tensors import padding_of

CHUNK = (4, 2)
LENGTHS = (512, 2048)


def calls(mixer: Mixer, *chunks: tuple[int, int | None]) -> list[tuple[int | None, int | None]]:
    """Full context, and the chunks if the mixer has any."""
    return [(None, None), *(chunks if mixer.capabilities.chunked else ())]


def both_passes(run: Callable[[], Tensor]) -> None:
    run().sum().backward()


def test_memory_is_linear(form: MixerForm) -> None:
    """What is kept between the two passes, and the most that is live in them, grow with T."""
    mixer = make(form).train()
    if not mixer.capabilities.linear_time:
        pytest.skip("does not claim linear time")
    for chunk in calls(mixer, (8, 2), (8, None)):
        kept, live = [], []
        for length in LENGTHS:
            x_BTD, padding = noise(1, length, D).requires_grad_(), padding_of(length)
            run = partial(mixer, x_BTD, padding, *chunk)
            kept.append(kept_bytes(run, mixer))
            live.append(peak_bytes(partial(both_passes, run)))
        growth = LENGTHS[1] / LENGTHS[0]
        assert kept[1] <= 1.08 * growth * kept[0], (chunk, kept)
        assert live[1] <= 1.08 * growth * live[0], (chunk, live)


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_no_tensor_is_made_on_the_cpu(form: MixerForm, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mixer = make(form).to(device)
    x_BTD, padding = noise(2, 9, D).to(device), padding_of(9, 4).to(device)
    for chunk in calls(mixer, CHUNK):
        y_BTD = mixer(x_BTD, padding, *chunk)
        assert y_BTD.device.type == device and y_BTD.shape == x_BTD.shape


def test_compiles_without_graph_breaks(form: MixerForm) -> None:
    """Full context and chunks in one graph; of every mixer's first form the backward pass, too."""
    mixer, padding = make(form), padding_of(12, 7)
    x_BTD = noise(2, 12, D).requires_grad_()

    def both(x_BTD: Tensor) -> Tensor:
        return torch.cat([mixer(x_BTD, padding, *chunk) for chunk in calls(mixer, CHUNK)])

    first = mixer_spec(form.attention_type).forms[0]
    backend = "aot_eager" if form == first else "eager"
    torch.compiler.reset()
    got = torch.compile(both, backend=backend, fullgraph=True)(x_BTD)
    real = ~padding.repeat(len(got) // 2, 1)
    (grad,) = torch.autograd.grad(got[real].square().sum(), x_BTD)
    want = both(x_BTD)
    (grad_want,) = torch.autograd.grad(want[real].square().sum(), x_BTD)
    assert_close("compiled output", got[real], want[real])
    assert_close("compiled gradient", grad, grad_want, tolerance=1e-4)
