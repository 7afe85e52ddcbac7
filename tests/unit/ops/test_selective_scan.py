"""The tiled selective scan against the recurrence in float64, and the glue to the fused kernels."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.ops import mamba_kernels
from summarymixing_modules.ops.convolution import depthwise_conv
from summarymixing_modules.ops.naive import naive_selective_scan, naive_window_states
from summarymixing_modules.ops.selective_scan import selective_scan, tiled_scan, window_states
from summarymixing_modules.ops.selective_scan_tiles import (
    ACCELERATOR_TILE,
    CPU_TILE,
    Tile,
    scan_tiles,
)

E, N = 6, 4
TILES = [
    pytest.param(CPU_TILE, id="cpu"),
    pytest.param(ACCELERATOR_TILE, id="accelerator"),
    pytest.param(Tile(elements=2 * 8 * E * N, frames=8, chunk=3), id="small"),
]


def scan_inputs(*lengths: int, decay: float = 1.0, features: int = E) -> list[Tensor]:
    """x, Δ (zero at padding), A, B, C and an initial state, in float64."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch, length = len(lengths), max(lengths)
    delta_BTE = 0.1 * F.softplus(2 * noise(batch, length, features))
    padding = torch.arange(length)[None] >= torch.tensor(lengths)[:, None]
    delta_BTE = delta_BTE.masked_fill(padding[..., None], 0.0)
    x_BTE, a_EN = noise(batch, length, features), -decay * F.softplus(4 * noise(features, N))
    b_BTN, c_BTN = noise(batch, length, N), noise(batch, length, N)
    return [x_BTE, delta_BTE, a_EN, b_BTN, c_BTN, noise(batch, N, features)]


def scan_with_state(*inputs: Tensor, tile: Tile | None = None) -> tuple[Tensor, Tensor]:
    """``tiled_scan`` from the last of six inputs, or from zero."""
    x, delta, a, b, c, *initial = inputs
    start = initial[0] if initial else None
    return tiled_scan(x, delta, a, b, c, start, want_state=True, tile=tile)


def outputs_and_gradients(scan, tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """y, the last state, and the gradients of a weighted sum of both."""
    leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    y_BTE, last_BNE = scan(*leaves)
    wave = torch.linspace(-3, 5, y_BTE.numel(), dtype=dtype).sin().view_as(y_BTE)
    loss = (y_BTE * wave).sum() + last_BNE.square().sum()
    return [y_BTE, last_BNE, *torch.autograd.grad(loss, leaves)]


def assert_same(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    names = ("y", "last state", "x", "delta", "a", "b", "c", "initial state")
    for name, one, other in zip(names, got, want, strict=False):
        assert one.isfinite().all(), name
        error = (one.double() - other).norm() / other.norm().clamp(min=1e-12)
        assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    "lengths",
    [(1, 1, 1), (2, 1, 2), (8, 3, 5), (9, 8, 7), (31, 17, 30), (33, 0, 32), (290, 257, 16)],
)
def test_equals_the_recurrence(tile: Tile, lengths: tuple[int, ...]) -> None:
    tensors = scan_inputs(*lengths)

    scan = functools.partial(scan_with_state, tile=tile)
    want = outputs_and_gradients(naive_selective_scan, tensors, torch.float64)
    assert_same(outputs_and_gradients(scan, tensors, torch.float64), want, 1e-12)
    assert_same(outputs_and_gradients(scan, tensors, torch.float32), want, 1e-5)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("decay", [0.0, 1e-6, 1e3, 1e8])
def test_strong_and_weak_decays_in_float32(tile: Tile, decay: float) -> None:
    tensors = scan_inputs(70, 41, decay=decay)
    # A weight of A that was lost to underflow has no gradient worth comparing.
    compared = 4 if decay > 1 else 8

    scan = functools.partial(scan_with_state, tile=tile)
    want = outputs_and_gradients(naive_selective_scan, tensors, torch.float64)
    got = outputs_and_gradients(scan, tensors, torch.float32)
    assert all(tensor.isfinite().all() for tensor in got)
    assert_same(got[:compared], want[:compared], 1e-5)


def test_without_initial_state_it_starts_from_zero() -> None:
    *tensors, initial_BNE = scan_inputs(40, 23)
    want = outputs_and_gradients(
        lambda *inputs: naive_selective_scan(*inputs, torch.zeros_like(initial_BNE)),
        tensors,
        torch.float64,
    )
    got = outputs_and_gradients(scan_with_state, tensors, torch.float64)
    assert_same(got, want, 1e-12)
    assert torch.equal(selective_scan(*tensors), got[0])


def test_padding_passes_the_state_on() -> None:
    tensors = scan_inputs(40, 23)
    _, last_BNE = scan_with_state(*tensors)
    alone = [t if t.shape == (E, N) else t[1:, :23] for t in tensors[:5]]
    _, alone_BNE = scan_with_state(*alone, tensors[5][1:])
    torch.testing.assert_close(last_BNE[1:], alone_BNE)


def test_gradient_of_the_last_state_alone() -> None:
    tensors = [tensor.requires_grad_() for tensor in scan_inputs(37)]
    got = torch.autograd.grad(scan_with_state(*tensors)[1].sum(), tensors[:4])
    want = torch.autograd.grad(naive_selective_scan(*tensors)[1].sum(), tensors[:4])
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


def test_states_kept_for_the_backward_pass() -> None:
    x, delta, a, b, c, _ = scan_inputs(1024)
    kept = scan_tiles(x, delta, a, b, c, None, False, True, list(CPU_TILE))[2]
    assert kept.numel() <= x.numel() * N / CPU_TILE.frames
    assert scan_tiles(x, delta, a, b, c, None, False, False, list(CPU_TILE))[2].numel() == 0


@pytest.mark.parametrize("initial", [False, True])
def test_operator_obeys_the_rules_of_torch_library(initial: bool) -> None:
    """What it says of itself: schema, shapes under fake tensors, autograd.

    (The conformance tests compile it.)
    """
    tensors = [tensor.float().requires_grad_() for tensor in scan_inputs(19, 7)]
    if not initial:
        tensors[5] = None  # type: ignore[call-overload]
    torch.library.opcheck(
        scan_tiles,
        (*tensors, True, True, [4096, 8, 4]),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_bfloat16_inputs_are_scanned_in_float32() -> None:
    tensors = scan_inputs(200, 120)[:5]
    half = [tensor.bfloat16() for tensor in tensors]
    want, _ = naive_selective_scan(*(tensor.double() for tensor in half))
    got = selective_scan(*half)
    assert got.dtype == torch.bfloat16
    assert (got.double() - want).norm() / want.norm() < 3e-3


def test_autocast_does_not_reach_into_the_scan() -> None:
    tensors = [tensor.float() for tensor in scan_inputs(50, 31)]
    want = outputs_and_gradients(scan_with_state, tensors, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = outputs_and_gradients(scan_with_state, tensors, torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("left", [1, 2, 3, 4, 5, 8, 20])
def test_window_states(left: int) -> None:
    generator = torch.Generator().manual_seed(left)
    first, later = (
        torch.randn(2, 11, N, E, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    fade = torch.rand(2, 11, N, E, generator=generator, dtype=torch.float64)
    first[:, 0] = later[:, 0]  # there is nothing before the first chunk in either case
    want = naive_window_states(first, later, fade, left)
    torch.testing.assert_close(window_states(first, later, fade, left), want)


def test_glue_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts and dtypes, with stand-ins that follow the documentation of the two packages."""

    def selective_scan_fn(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        assert u.dtype == delta.dtype == B.dtype == C.dtype == A.dtype == torch.float32
        assert u.stride(-1) == delta.stride(-1) == B.stride(-1) == C.stride(-1) == 1
        x_BTE, delta_BTE, b_BTN, c_BTN = (t.transpose(1, 2) for t in (u, delta, B, C))
        return naive_selective_scan(x_BTE, delta_BTE, A, b_BTN, c_BTN)[0].transpose(1, 2)

    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        assert x.dtype == weight.dtype == bias.dtype and activation == "silu"
        padded = F.pad(x, (weight.shape[1] - 1, 0))
        return F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(weight)))

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    convolution = ModuleType("causal_conv1d")
    convolution.causal_conv1d_fn = causal_conv1d_fn  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setitem(sys.modules, "causal_conv1d", convolution)
    tensors = [tensor.float() for tensor in scan_inputs(30, 12)[:5]]
    torch.testing.assert_close(mamba_kernels.fused_scan(*tensors), selective_scan(*tensors))
    weight, bias = torch.randn(E, 1, 4), torch.randn(E)
    want = F.silu(depthwise_conv(tensors[0], weight, bias, causal=True))
    torch.testing.assert_close(mamba_kernels.fused_conv(tensors[0], weight, bias), want)


def test_the_kernels_are_for_cuda_only() -> None:
    assert not mamba_kernels.fused_scan_available(torch.device("cpu"))
    assert not mamba_kernels.fused_conv_available(torch.device("cpu"), 4)
    assert not mamba_kernels.fused_conv_available(torch.device("cuda"), 7)


def test_fused_kernels_on_cuda() -> None:
    device = torch.device("cuda")
    if not torch.cuda.is_available() or not mamba_kernels.fused_scan_available(device):
        pytest.skip("needs a CUDA device and the package mamba-ssm")
    tensors = [tensor.float() for tensor in scan_inputs(200, 120, features=32)[:5]]
    fused = [tensor.to(device).requires_grad_() for tensor in tensors]
    plain = [tensor.to(device).requires_grad_() for tensor in tensors]
    got, want = mamba_kernels.fused_scan(*fused), scan_with_state(*plain)[0]
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
