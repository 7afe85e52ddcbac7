"""Linear layers on an activation, one matrix per head, that keep one tensor less for backward.

``activation`` then ``Linear`` normally stores two tensors of the same size: the input of the
activation and its output, which the matrix product needs again. Here the output is computed a
second time in the backward pass, which costs an elementwise pass and halves what a layer keeps.

Shape suffixes: N heads, M frames (batch × time), I inputs of a head, O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Gradient = Callable[[Tensor, Tensor], Tensor]

_aten = torch.ops.aten


def _gradients_of(activation: nn.Module) -> Gradient | None:
    """Closed-form (grad_output, input) → grad_input of an activation; None where there is none."""
    if isinstance(activation, nn.GELU):
        kind = activation.approximate
        return lambda grad, z: _aten.gelu_backward(grad, z, approximate=kind)
    if isinstance(activation, nn.SiLU):
        return _aten.silu_backward
    if isinstance(activation, nn.LeakyReLU):
        slope = activation.negative_slope
        return lambda grad, z: _aten.leaky_relu_backward(grad, z, slope, False)
    if isinstance(activation, nn.ReLU):
        return lambda grad, z: _aten.threshold_backward(grad, z, 0)
    return None


class _ActivatedLinears(torch.autograd.Function):
    """y_k = W_k · activation(z_k) + b_k for the parts z_k of z; saves z and the W_k only."""

    @staticmethod
    def forward(
        ctx: Any, z_NMI: Tensor, activation: nn.Module, *weights_and_biases: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights = cast(Sequence[Tensor], weights_and_biases[::2])
        biases = weights_and_biases[1::2]
        ctx.save_for_backward(z_NMI, *weights)
        ctx.activation = activation
        parts = _parts(activation(z_NMI), weights)
        return tuple(map(linear_heads, parts, weights, biases))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z_NMI, *weights = ctx.saved_tensors
        grad_z = None
        if ctx.needs_input_grad[0]:
            gradient = _gradients_of(ctx.activation)
            assert gradient is not None  # activated_linears takes this path only when there is one
            products = [grad @ weight.mT for grad, weight in zip(grads, weights, strict=True)]
            grad_z = gradient(products[0] if len(products) == 1 else torch.cat(products, -1), z_NMI)
        grad_weights: list[Tensor | None] = [None] * len(weights)
        if any(ctx.needs_input_grad[2::2]):
            parts = _parts(ctx.activation(z_NMI), weights)
            grad_weights = [part.mT @ grad for part, grad in zip(parts, grads, strict=True)]
        grad_biases = [
            grad.sum(dim=1, keepdim=True) if needed else None
            for grad, needed in zip(grads, ctx.needs_input_grad[3::2], strict=True)
        ]
        pairs = zip(grad_weights, grad_biases, strict=True)
        return grad_z, None, *(grad for pair in pairs for grad in pair)


def _parts(z_NMI: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    return z_NMI.split([weight.shape[1] for weight in weights], dim=-1)


def linear_heads(x_NMI: Tensor, weight_NIO: Tensor, bias_N1O: Tensor | None) -> Tensor:
    """Block-diagonal Linear: head n reads its own I features and writes its own O features."""
    if bias_N1O is None:
        return torch.bmm(x_NMI, weight_NIO)
    return torch.baddbmm(bias_N1O, x_NMI, weight_NIO)


def activated_linear(
    z_NMI: Tensor, weight_NIO: Tensor, bias_N1O: Tensor | None, activation: nn.Module
) -> Tensor:
    """Computes ``linear_heads(activation(z), W, b)``, keeping z but not activation(z).

    Args:
        z_NMI: input of the activation.
        weight_NIO: one matrix per head.
        bias_N1O: one bias per head, or None.
        activation: an elementwise module without parameters.

    Returns:
        y_NMO.
    """
    return activated_linears(z_NMI, [(weight_NIO, bias_N1O)], activation)[0]


def activated_linears(
    z_NMI: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]], activation: nn.Module
) -> tuple[Tensor, ...]:
    """``activated_linear`` of several layers that read one part of z each, side by side.

    The activation runs over z as a whole, forward and backward: its parts are not contiguous.

    GELU, SiLU, ReLU and LeakyReLU take the lean path; any other module, and anything under
    ``torch.compile`` (whose partitioner chooses what to recompute by itself), the plain one.

    Args:
        z_NMI: input of the activation; its features I are those of the layers, one after another.
        layers: weight (N, I_k, O_k) and bias (N, 1, O_k) or None of each.
        activation: an elementwise module without parameters.

    Returns:
        the outputs (N, M, O_k).
    """
    weights, biases = zip(*layers, strict=True)
    if torch.compiler.is_compiling() or _gradients_of(activation) is None:
        parts = _parts(activation(z_NMI), weights)
        return tuple(map(linear_heads, parts, weights, biases))
    tensors = [tensor for layer in layers for tensor in layer]
    device = z_NMI.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        z_NMI = z_NMI.to(dtype)
        tensors = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
    return _ActivatedLinears.apply(z_NMI, activation, *tensors)
