"""activated_linears against activation and matrix product written out, in float64 and bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from summarymixing_modules.ops.activated_linear import activated_linear, activated_linears

ACTIVATIONS = [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ReLU(), nn.LeakyReLU(0.2), nn.Softplus()]
Layer = tuple[Tensor, Tensor | None]


def plain(z_NMI: Tensor, layers: list[Layer], activation: nn.Module) -> list[Tensor]:
    """Every head and layer by itself."""
    outputs, start = [], 0
    for weight_NIO, bias_N1O in layers:
        stop = start + weight_NIO.shape[1]
        a_NMI = activation(z_NMI[..., start:stop])
        y_NMO = torch.einsum("nmi,nio->nmo", a_NMI, weight_NIO)
        outputs.append(y_NMO if bias_N1O is None else y_NMO + bias_N1O)
        start = stop
    return outputs


def make(
    heads: int, widths: list[tuple[int, int]], dtype: torch.dtype, bias: bool = True
) -> tuple[Tensor, list[Layer]]:
    torch.manual_seed(1)
    layers: list[Layer] = []
    for inputs, outputs in widths:
        weight = torch.randn(heads, inputs, outputs, dtype=dtype, requires_grad=True)
        b = torch.randn(heads, 1, outputs, dtype=dtype, requires_grad=True) if bias else None
        layers.append((weight, b))
    features = sum(inputs for inputs, _ in widths)
    return torch.randn(heads, 7, features, dtype=dtype, requires_grad=True), layers


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("widths", [[(3, 4)], [(3, 4), (5, 2)]])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients(
    activation: nn.Module, widths: list[tuple[int, int]], heads: int, bias: bool
) -> None:
    z, layers = make(heads, widths, torch.float64, bias)
    leaves = [z, *(t for layer in layers for t in layer if t is not None)]
    got, want = activated_linears(z, layers, activation), plain(z, layers, activation)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
    grads = [torch.randn_like(y) for y in want]
    for one, other in zip(
        torch.autograd.grad(got, leaves, grads),
        torch.autograd.grad(want, leaves, grads),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_frozen_weights_and_inputs_get_no_gradient() -> None:
    z, layers = make(2, [(3, 4), (5, 2)], torch.float64)
    for layer in layers:
        for tensor in layer:
            assert tensor is not None
            tensor.requires_grad_(False)
    sum(y.sum() for y in activated_linears(z, layers, nn.GELU())).backward()
    assert z.grad is not None and layers[0][0].grad is None and layers[1][1].grad is None


def test_an_output_that_is_not_used() -> None:
    z, layers = make(1, [(3, 4), (5, 2)], torch.float64)
    activated_linears(z, layers, nn.GELU())[1].sum().backward()
    assert z.grad is not None
    assert z.grad[..., :3].abs().max() == 0 and z.grad[..., 3:].abs().min() > 0


def test_under_autocast() -> None:
    z, [(weight, bias)] = make(2, [(16, 8)], torch.float32)
    want = activated_linear(z, weight, bias, nn.GELU())
    with torch.autocast("cpu", torch.bfloat16):
        got = activated_linear(z, weight, bias, nn.GELU())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.1)


def test_keeps_one_tensor_less() -> None:
    z, layers = make(1, [(64, 8)], torch.float64)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        activated_linears(z, layers, nn.GELU())
    assert sum(t.numel() for t in kept) == z.numel() + layers[0][0].numel()
