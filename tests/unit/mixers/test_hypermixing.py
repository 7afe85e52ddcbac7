"""HyperMixing against its textbook form and SpeechBrain's layer; its sizes, range and memory."""

from __future__ import annotations

import copy

import pytest
import torch
from speechbrain.nnet import hypermixing as speechbrain
from torch import Tensor

from summarymixing_modules.encoders import ConformerEncoder
from summarymixing_modules.mixers import HyperMixing, MixerSize, build_mixer
from summarymixing_modules.mixers.hypermixing import HyperNetwork, HyperState
from summarymixing_modules.mixers.naive import naive_hyper_mixing
from summarymixing_modules.ops import hypermixing as ops
from tests.tensors import padding_of, relative_error

D, MIXING = 24, 40
FORMS = [(1, False), (1, True), (4, False), (4, True)]
CHUNKS = [(None, None), (1, None), (4, None), (4, 0), (4, 2), (5, 1), (16, 3), (500, 1)]


def assert_equals_the_textbook(
    mixer: HyperMixing, length: int, chunk_size: int | None, left: int | None
) -> None:
    """Output and all gradients in float32 against the textbook in float64."""
    exact = copy.deepcopy(mixer).double()
    padding = padding_of(length, max(1, length // 2), 0)
    x_BTD = torch.randn(3, length, D)
    x_fast, x_exact = x_BTD.requires_grad_(), x_BTD.detach().double().requires_grad_()
    got = mixer(x_fast, padding, chunk_size, left)
    want = naive_hyper_mixing(exact, x_exact, padding, chunk_size, left)
    seen = torch.randn(3, length, D).masked_fill(padding[..., None], 0.0)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert relative_error(got[~padding], want[~padding]) < 1e-5
    assert relative_error(x_fast.grad, x_exact.grad) < 1e-5
    for (name, p), q in zip(mixer.named_parameters(), exact.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) < 1e-5, name


@pytest.mark.parametrize(("nhead", "tied"), FORMS)
@pytest.mark.parametrize(("chunk_size", "left"), CHUNKS)
@pytest.mark.parametrize("length", [1, 37])
def test_equals_the_textbook(
    nhead: int, tied: bool, chunk_size: int | None, left: int | None, length: int
) -> None:
    torch.manual_seed(length)
    mixer = HyperMixing(D, MIXING, nhead, tied)
    assert_equals_the_textbook(mixer, length, chunk_size, left)


@pytest.mark.parametrize(("chunk_size", "left"), [(None, None), (3, None), (3, 2)])
def test_blocks_of_rows_change_nothing(
    chunk_size: int | None, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many rows are mixed block by block, and once more in the backward pass."""
    torch.manual_seed(0)
    monkeypatch.setattr(ops, "ROW_BLOCK", 17)
    assert_equals_the_textbook(HyperMixing(D, MIXING, 4), 23, chunk_size, left)


def from_speechbrain(theirs: speechbrain.HyperMixing, ours: HyperMixing) -> None:
    """Copies the weights of a SpeechBrain layer."""

    def copy_network(source: speechbrain.ParallelMLPs, target: HyperNetwork) -> None:
        target.hidden.weight.copy_(source.fc1_weights.mT)
        target.hidden.bias.copy_(source.fc1_biases[:, None])
        target.output.weight.copy_(source.fc2_weights.mT)
        target.output.bias.copy_(source.fc2_biases[:, None])

    with torch.no_grad():
        copy_network(theirs.hyper.w1_gen, ours.first)
        if ours.second is not None:
            copy_network(theirs.hyper.w2_gen, ours.second)
        ours.norm.load_state_dict(theirs.layer_norm.state_dict())


@pytest.mark.parametrize(("nhead", "tied"), FORMS)
@pytest.mark.parametrize("length", [1, 50, 301])
def test_is_speechbrains_function(nhead: int, tied: bool, length: int) -> None:
    torch.manual_seed(0)
    theirs = speechbrain.HyperMixing(D, MIXING, tied, nhead)
    ours = HyperMixing(D, MIXING, nhead, tied)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (theirs, ours)]
    assert counts[0] == counts[1]
    torch.nn.init.normal_(theirs.layer_norm.weight)
    torch.nn.init.normal_(theirs.layer_norm.bias)
    from_speechbrain(theirs, ours)
    x_BTD = torch.randn(2, length, D)
    want, _ = theirs(x_BTD, x_BTD, x_BTD)
    assert relative_error(ours(x_BTD), want.double()) < 1e-5


def test_longer_than_speechbrain_allows() -> None:
    torch.manual_seed(0)
    mixer, x_BTD = HyperMixing(D, MIXING, 4), torch.randn(1, 3500, D)
    want = naive_hyper_mixing(copy.deepcopy(mixer).double(), x_BTD.double())
    assert relative_error(mixer(x_BTD), want) < 1e-5


@pytest.mark.parametrize("left", [None, 3])
def test_a_stream_continues_its_positions(left: int | None) -> None:
    """Far from the start, where positions of a stream and of one chunk differ."""
    torch.manual_seed(0)
    mixer, x_BTD = HyperMixing(D, MIXING, 4).eval(), torch.randn(2, 40, D)
    state, parts = mixer.initial_state(2, left), []
    with torch.no_grad():
        for chunk_BKD in x_BTD.split(4, dim=1):
            y_BKD, state = mixer.step(chunk_BKD, state)
            parts.append(y_BKD)
        want = mixer(x_BTD, None, 4, left)
    assert relative_error(torch.cat(parts, dim=1), want.double()) < 1e-5
    if left is None:
        assert isinstance(state.memory, HyperState) and state.memory.position == 40


def test_float16_does_not_overflow() -> None:
    """Sums over 3000 frames with a common offset are beyond 65504, and the textbook fails."""
    torch.manual_seed(0)
    mixer = HyperMixing(D, MIXING, 2)
    x_BTD = (torch.randn(1, 3000, D) + 20.0).requires_grad_()
    want = mixer(x_BTD.detach()).double()
    with torch.autocast("cpu", dtype=torch.float16):
        assert not naive_hyper_mixing(mixer, x_BTD).isfinite().all()
        got = mixer(x_BTD)
    got[..., 0].sum().backward()
    assert relative_error(got, want) < 0.01
    assert x_BTD.grad is not None and x_BTD.grad.isfinite().all()
    got = copy.deepcopy(mixer).half()(x_BTD.half())
    assert got.dtype == torch.float16 and relative_error(got, want) < 0.01


def kept_bytes(mixer: HyperMixing, chunk_size: int | None, left: int | None) -> int:
    """Bytes that a forward pass of 128 frames keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    x_BTD = torch.randn(1, 128, D, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y_BTD = mixer(x_BTD, None, chunk_size, left)
    assert y_BTD.requires_grad
    return sum(sizes.values())


def test_left_context_and_mixing_size_cost_no_memory() -> None:
    mixer = HyperMixing(D, MIXING, 4)
    assert kept_bytes(mixer, 8, 12) < 1.2 * kept_bytes(mixer, 8, 1)
    larger = HyperMixing(D, 8 * MIXING, 4)
    weights = sum(p.numel() for p in larger.parameters()) * 4
    # The hidden layer of the mixing MLP exists once per utterance, and W1 and W2 never.
    once = 4 * D * 8 * MIXING // 4
    assert kept_bytes(larger, None, None) < kept_bytes(mixer, None, None) + weights + 2 * once


def test_sizes_follow_the_host() -> None:
    size = MixerSize(d_model=D, nhead=4, d_ffn=64)
    mixer = build_mixer("hypermixing", size)
    assert isinstance(mixer, HyperMixing) and mixer.first.output.weight.shape == (4, 6, 16)
    assert mixer.second is not None
    smaller = build_mixer("hypermixing", size, hypernet_size=8, tied=True)
    assert isinstance(smaller, HyperMixing) and smaller.first.output.weight.shape == (4, 6, 2)
    assert smaller.second is None


@pytest.mark.parametrize(("layers", "d_model", "millions"), [(12, 672, 94.3), (24, 1048, 315.4)])
def test_parameters_of_the_published_models(layers: int, d_model: int, millions: float) -> None:
    """arXiv 2409.02596: Conformer, convolutional front end, and a head of 8192 classes."""
    with torch.device("meta"):
        encoder = ConformerEncoder(layers, d_model, 2048, 8, attention_type="hypermixing")
    front = (9 + 1) * 128 + 2 * 40 * 128 + (9 * 128 + 1) * 32 + 2 * 20 * 32 + 641 * d_model
    total = sum(p.numel() for p in encoder.parameters()) + front + (d_model + 1) * 8192
    assert total / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("enc_dim", "hypernet_size", "nhead", "message"),
    [
        (7, 8, 1, "enc_dim=7 must be even"),
        (10, 8, 4, "enc_dim=10 must be a positive multiple of nhead=4"),
        (8, 10, 4, "hypernet_size=10 must be a positive multiple of nhead=4"),
        (8, 0, 4, "hypernet_size=0 must be a positive multiple"),
    ],
)
def test_refuses_sizes(enc_dim: int, hypernet_size: int, nhead: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyperMixing(enc_dim, hypernet_size, nhead)
