"""Mamba against its equations, one utterance and one frame at a time in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.encoders.conformer import ConformerEncoder
from summarymixing_modules.mixers import Mamba, MixerSize, UnsupportedByMixer, build_mixer
from summarymixing_modules.mixers.naive import naive_mamba
from tests.tensors import padding_of

D = 12


def make(bidirectional: bool = True, **options: int) -> Mamba:
    torch.manual_seed(0)
    return Mamba(D, bidirectional, **options)


def error(got: Tensor, want: Tensor) -> float:
    assert got.isfinite().all()
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("lengths", [(1, 1), (5, 2), (31, 33), (67, 64)])
def test_output_and_gradients_equal_the_equations(
    bidirectional: bool, lengths: tuple[int, ...]
) -> None:
    mixer = make(bidirectional)
    twin = copy.deepcopy(mixer).double()
    x_BTD = torch.randn(2, max(lengths), D)
    wave = torch.linspace(0, 9, x_BTD.numel()).sin().view_as(x_BTD)
    padding = padding_of(*lengths)
    leaf, leaf_twin = x_BTD.clone().requires_grad_(), x_BTD.double().requires_grad_()
    y_BTD, want_BTD = mixer(leaf, padding), naive_mamba(twin, leaf_twin, padding)
    (y_BTD * wave).masked_fill(padding[..., None], 0.0).sum().backward()
    (want_BTD * wave.double()).sum().backward()
    assert error(y_BTD[~padding], want_BTD[~padding]) < 1e-5
    assert error(leaf.grad, leaf_twin.grad) < 1e-5
    for (name, one), other in zip(mixer.named_parameters(), twin.parameters(), strict=True):
        if other.grad.norm() > 1e-9:
            assert error(one.grad, other.grad) < 1e-5, name


@pytest.mark.parametrize(("chunk_size", "left"), [(1, 2), (2, 4), (3, 1), (4, 2), (7, 1), (5, 0)])
def test_gradients_under_chunks_equal_windows(chunk_size: int, left: int) -> None:
    """Also chunks that are shorter than the reach of the convolution."""
    mixer = make().double()
    padding = padding_of(14, 9)
    x_BTD = torch.randn(2, 14, D, dtype=torch.float64, requires_grad=True)
    wave = torch.linspace(0, 9, x_BTD.numel()).sin().view_as(x_BTD).double()
    want = naive_mamba(mixer, x_BTD, padding, chunk_size, left)
    got = mixer(x_BTD, padding, chunk_size, left).masked_fill(padding[..., None], 0.0)
    inputs = [x_BTD, *mixer.parameters()]
    grads = torch.autograd.grad((got * wave).sum(), inputs)
    grads_want = torch.autograd.grad((want * wave).sum(), inputs)
    for one, other in zip((got, *grads), (want, *grads_want), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", [{"d_conv": 1}, {"d_conv": 2, "d_state": 3}, {"expand": 1}])
@torch.no_grad()
def test_options_change_sizes_and_steps_still_equal_forward(options: dict[str, int]) -> None:
    mixer = make(bidirectional=False, **options)
    x_BTD = torch.randn(2, 23, D)
    assert error(mixer(x_BTD), naive_mamba(mixer, x_BTD).double()) < 1e-5
    state, parts = mixer.initial_state(2), []
    for part in x_BTD.split([1, 3, 12, 2, 5], dim=1):
        y_BTD, state = mixer.step(part, state)
        parts.append(y_BTD)
    assert error(torch.cat(parts, 1), mixer(x_BTD).double()) < 1e-5


@pytest.mark.parametrize("shift", [-30.0, 30.0])
def test_vanishing_and_huge_steps_stay_finite(shift: float) -> None:
    mixer = make()
    for direction in (mixer.left_to_right, mixer.right_to_left):
        assert direction is not None
        nn.init.constant_(direction.dt_proj.bias, shift)
    x_BTD = (10 * torch.randn(2, 70, D)).requires_grad_()
    y_BTD = mixer(x_BTD, padding_of(70, 41))
    y_BTD.sum().backward()
    assert y_BTD.isfinite().all() and x_BTD.grad is not None and x_BTD.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


def test_parameters_are_those_of_the_public_module() -> None:
    mixer = Mamba(32)
    shapes = {name: tuple(p.shape) for name, p in mixer.left_to_right.state_dict().items()}
    assert shapes == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 2 * 16, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }
    assert mixer.right_to_left is not None
    assert mixer.right_to_left.state_dict().keys() == shapes.keys()


def test_initialisation() -> None:
    direction = Mamba(256).left_to_right
    delta_E = F.softplus(direction.dt_proj.bias)
    assert 1e-3 * 0.999 < delta_E.min() < 2e-3 and 0.05 < delta_E.max() < 1e-1 * 1.001
    assert abs(delta_E.log().mean() - math.log(1e-2)) < 0.3
    torch.testing.assert_close(direction.A_log.exp(), torch.arange(1.0, 17.0).expand(512, 16))
    assert (direction.D == 1).all()
    assert direction.dt_proj.weight.abs().max() <= direction.dt_rank**-0.5


@pytest.mark.parametrize(
    ("d_model", "layers", "millions"), [(474, 12, 94.2), (678, 24, 314.9)], ids=["base", "large"]
)
def test_size_of_the_models_of_the_study(d_model: int, layers: int, millions: float) -> None:
    """arXiv 2409.02596: two complete modules per layer, as here, and not one with shared weights.

    The rest of those models: a front end of two Conv2d blocks (128, 32) with LayerNorm on 80 mels,
    a Linear from its 640 features, and BEST-RQ's head for 8192 codes.
    """
    encoder = ConformerEncoder(1, d_model, 2048, nhead=1, attention_type="mamba")
    around = nn.ModuleList(
        [
            nn.Conv2d(1, 128, 3),
            nn.LayerNorm((40, 128)),
            nn.Conv2d(128, 32, 3),
            nn.LayerNorm((20, 32)),
            nn.Linear(640, d_model),
            nn.Linear(d_model, 8192),
            encoder.norm,
        ]
    )
    total = layers * _size(encoder.layers) + _size(around)
    assert _size(encoder) == _size(encoder.layers) + _size(encoder.norm)
    assert abs(total / 1e6 - millions) < 0.001 * millions


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_memory_kept_for_the_backward_pass_is_linear() -> None:
    mixer, sizes = make(), []
    for length in (256, 1024):
        kept: dict[int, int] = {}

        def remember(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            output = mixer(torch.randn(1, length, D))
        sizes.append(sum(kept.values()))
        assert output.requires_grad
    assert math.log(sizes[1] / sizes[0]) / math.log(4) < 1.05
    inner_features = 2 * 2 * D
    assert sizes[1] < 16 * 4 * 1024 * inner_features


def test_capabilities_follow_the_direction() -> None:
    size = MixerSize(D)
    assert build_mixer("mamba", size).capabilities.bidirectional
    one_way = build_mixer("mamba", size, bidirectional=False)
    assert not one_way.capabilities.bidirectional
    one_way.require("causal", "causal=True")
    with pytest.raises(UnsupportedByMixer, match="Mamba is not bidirectional"):
        one_way.require("bidirectional", "bidirectional=True")


@pytest.mark.parametrize("option", ["d_state", "d_conv", "expand"])
def test_sizes_below_one_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0 must be at least 1"):
        make(**{option: 0})
