"""Every promise of mixers/base.py about streams, for every form of every registered mixer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from summarymixing_modules.mixers import Mixer, MixerForm, UnsupportedByMixer
from summarymixing_modules.streaming import state_bytes
from tests.conformance.forms import D, assert_close, make, noise, unless_refused
from tests.tensors import padding_of


def streaming(form: MixerForm, causal: bool = False) -> Mixer:
    """A mixer that streams; the test ends where there is none."""
    mixer = make(form)
    if not mixer.capabilities.streaming or (causal and not mixer.capabilities.causal):
        pytest.skip("does not stream so")
    return make(form, causal=True) if causal else mixer


@torch.no_grad()
def stream(
    mixer: Mixer, x_BTD: Tensor, padding_BT: Tensor, sizes: list[int], left: int | None = None
) -> Tensor:
    """Output of ``step`` over chunks of these sizes."""
    state, outputs = mixer.initial_state(len(x_BTD), left), []
    for x_part, padding in zip(x_BTD.split(sizes, 1), padding_BT.split(sizes, 1), strict=True):
        y_part, state = mixer.step(x_part, state, padding)
        outputs.append(y_part)
    return torch.cat(outputs, dim=1)


def sizes_of(length: int, chunk_size: int) -> list[int]:
    return [min(chunk_size, length - start) for start in range(0, length, chunk_size)]


@pytest.mark.parametrize(("chunk_size", "left"), [(1, None), (4, None), (4, 0), (4, 2), (9, 1)])
@torch.no_grad()
def test_streaming_equals_offline(form: MixerForm, chunk_size: int, left: int | None) -> None:
    """Ragged last chunk, and two streams of different lengths."""
    mixer, x_BTD, padding = make(form), noise(2, 22, D), padding_of(22, 15)
    with unless_refused(mixer, "streaming"):
        mixer.initial_state(2, left)
    got = stream(mixer, x_BTD, padding, sizes_of(22, chunk_size), left)
    want = mixer(x_BTD, padding, chunk_size, left)
    assert_close("stream", got[~padding], want[~padding])


@pytest.mark.parametrize(("sizes", "left"), [([8, 1, 6, 7], None), ([1] * 22, 3), ([22], 2)])
@torch.no_grad()
def test_causal_streams_take_any_number_of_frames(
    form: MixerForm, sizes: list[int], left: int | None
) -> None:
    mixer, x_BTD, padding = streaming(form, causal=True), noise(2, 22, D), padding_of(22, 15)
    want = mixer(x_BTD, padding, None if left is None else 1, left)
    got = stream(mixer, x_BTD, padding, sizes, left)
    assert_close("causal stream", got[~padding], want[~padding])


@torch.no_grad()
def test_bfloat16_streams(form: MixerForm) -> None:
    """Under autocast as near to float32 as the forward pass, however long the stream."""
    mixer, x_BTD, padding = streaming(form), noise(2, 600, D), padding_of(600, 375)
    for left in (None, 2):
        want = mixer(x_BTD, padding, 50, left)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = stream(mixer, x_BTD, padding, [50] * 12, left)
        assert_close(f"left {left}", got[~padding], want[~padding], tolerance=0.01)


@torch.no_grad()
def test_a_step_does_not_change_its_state(form: MixerForm) -> None:
    mixer, x_BTD = streaming(form), noise(2, 8, D)
    for left in (None, 1):
        _, state = mixer.step(x_BTD[:, :4], mixer.initial_state(2, left))
        want, _ = mixer.step(x_BTD[:, 4:], copy.deepcopy(state))
        for _ in range(2):
            assert torch.equal(mixer.step(x_BTD[:, 4:], state)[0], want)


@torch.no_grad()
def test_state_does_not_grow(form: MixerForm) -> None:
    """That of a linear mixer never, that of any other not with a limited left context."""
    mixer = streaming(form)
    for left in (None, 2) if mixer.capabilities.linear_time else (2,):
        state, sizes = mixer.initial_state(1, left), []
        for _ in range(9):
            _, state = mixer.step(noise(1, 4, D), state)
            sizes.append(state_bytes(state))
        assert len(set(sizes[4:])) == 1, sizes


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that any operator returns."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return result


@torch.no_grad()
def test_a_step_never_takes_the_square_of_the_past(form: MixerForm) -> None:
    """All the past visible: frames of the chunk times frames seen, for attention of any kind."""
    mixer, largest = streaming(form), []
    for past in (128, 512):
        _, state = mixer.step(noise(1, past, D), mixer.initial_state(1))
        with LargestTensor() as found:
            mixer.step(noise(1, 4, D), state)
        largest.append(found.numbers)
    assert largest[1] <= 4.4 * largest[0], largest


def test_what_does_not_fit_the_stream_is_refused(form: MixerForm) -> None:
    mixer, x_BTD = streaming(form), noise(2, 9, D)
    state = mixer.initial_state(2)
    with pytest.raises(ValueError, match="got no frames"):
        mixer.step(x_BTD[:, :0], state)
    with pytest.raises(ValueError, match=rf"expects \(batch, time, {D}\)"):
        mixer.step(x_BTD[..., :8], state)
    with pytest.raises(ValueError, match=r"key_padding_mask must be boolean"):
        mixer.step(x_BTD, state, padding_of(4, 4))
    with pytest.raises(ValueError, match="that of 2 streams, and the chunk has 1"):
        mixer.step(x_BTD[:1], state)
    with pytest.raises(ValueError, match="state is a dict"):
        mixer.step(x_BTD, {})
    with pytest.raises(ValueError, match="left_context_size counts chunks"):
        mixer.initial_state(2, -1)
    if not mixer.capabilities.bidirectional:
        return  # to what never looks ahead, chunks are nothing
    _, state = mixer.step(x_BTD[:, :4], state)
    with pytest.raises(ValueError, match="have 4 frames and this one has 5"):
        mixer.step(x_BTD[:, :5], state)
    _, state = mixer.step(x_BTD[:, :3], state)
    with pytest.raises(ValueError, match="less than 4 frames ends a stream"):
        mixer.step(x_BTD[:, :4], state)


def test_a_mixer_that_does_not_stream_says_so(form: MixerForm) -> None:
    mixer = make(form)
    if mixer.capabilities.streaming:
        pytest.skip("it streams")
    for call in (lambda: mixer.initial_state(1), lambda: mixer.step(noise(1, 4, D), None)):
        with pytest.raises(UnsupportedByMixer, match="not streaming.*Mixers that can: .+"):
            call()
