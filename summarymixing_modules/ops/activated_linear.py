"""Linear layers on an activation, one matrix per head, that keep one tensor less for backward.

``activation`` then ``Linear`` normally stores two tensors of the same size: the input of the
activation and its output, which the matrix product needs again. Here the output is computed a
second time in the backward pass, which costs an elementwise pass and halves what a layer keeps.

Shape suffixes: N heads, M frames (batch × time), I inputs of a head, O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


class _ActivatedLinear(torch.autograd.Function):
    """y = W · activation(z) + b, one W per head; saves z and W only."""

    @staticmethod
    def forward(
        ctx: Any, z_NMI: Tensor, weight_NIO: Tensor, bias_N1O: Tensor | None, activation: nn.Module
    ) -> Tensor:
        ctx.save_for_backward(z_NMI, weight_NIO)
        ctx.activation = activation
        return linear_heads(activation(z_NMI), weight_NIO, bias_N1O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_NMO = grads[0]
        z_NMI, weight_NIO = ctx.saved_tensors
        grad_z = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            gradient = _gradients_of(ctx.activation)
            assert gradient is not None  # activated_linear takes this path only when there is one
            grad_z = gradient(grad_NMO @ weight_NIO.mT, z_NMI)
        if ctx.needs_input_grad[1]:
            grad_weight = ctx.activation(z_NMI).mT @ grad_NMO
        if ctx.needs_input_grad[2]:
            grad_bias = grad_NMO.sum(dim=1, keepdim=True)
        return grad_z, grad_weight, grad_bias, None


def linear_heads(x_NMI: Tensor, weight_NIO: Tensor, bias_N1O: Tensor | None) -> Tensor:
    """Block-diagonal Linear: head n reads its own I features and writes its own O features."""
    if bias_N1O is None:
        return torch.bmm(x_NMI, weight_NIO)
    return torch.baddbmm(bias_N1O, x_NMI, weight_NIO)


def activated_linear(
    z_NMI: Tensor, weight_NIO: Tensor, bias_N1O: Tensor | None, activation: nn.Module
) -> Tensor:
    """Computes ``linear_heads(activation(z), W, b)``, keeping z but not activation(z).

    GELU, SiLU, ReLU and LeakyReLU take the lean path; any other module, and anything under
    ``torch.compile`` (whose partitioner chooses what to recompute by itself), the plain one.

    Args:
        z_NMI: input of the activation.
        weight_NIO: one matrix per head.
        bias_N1O: one bias per head, or None.
        activation: an elementwise module without parameters.

    Returns:
        y_NMO.
    """
    if torch.compiler.is_compiling() or _gradients_of(activation) is None:
        return linear_heads(activation(z_NMI), weight_NIO, bias_N1O)
    device = z_NMI.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        z_NMI, weight_NIO = z_NMI.to(dtype), weight_NIO.to(dtype)
        bias_N1O = None if bias_N1O is None else bias_N1O.to(dtype)
    return _ActivatedLinear.apply(z_NMI, weight_NIO, bias_N1O, activation)
