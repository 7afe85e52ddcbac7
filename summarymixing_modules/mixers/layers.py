"""Layers that several mixers are made of.

Shape suffixes: N heads, M frames (batch × time), I inputs of a head, O outputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError


class BlockLinear(nn.Module):
    """A block-diagonal Linear: head n maps its own I inputs to its own O outputs.

    Initialised as ``nn.Linear`` with the fan-in that a head really has, I and not N·I.

    Args:
        in_features: N·I.
        out_features: N·O.
        nhead: number of blocks N; 1 is an ordinary Linear.

    Raises:
        ValueError: a size that the heads do not divide.
    """

    def __init__(self, in_features: int, out_features: int, nhead: int = 1) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size % nhead:
                raise ValueError(f"{name}={size} cannot be split into nhead={nhead} equal parts.")
        self.nhead = nhead
        self.weight = nn.Parameter(torch.empty(nhead, in_features // nhead, out_features // nhead))
        self.bias = nn.Parameter(torch.empty(nhead, 1, out_features // nhead))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/√I, weights and biases."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x_NMI: Tensor) -> Tensor:
        """Returns y_NMO = W·x + b."""
        return torch.baddbmm(self.bias, x_NMI, self.weight)

    def extra_repr(self) -> str:
        """Sizes, for print(module)."""
        nhead, inputs, outputs = self.weight.shape
        return f"{nhead * inputs}, {nhead * outputs}, nhead={nhead}"


def block_layers(sizes: Sequence[int], nhead: int) -> nn.ModuleList:
    """Block-diagonal Linears from each size to the next."""
    return nn.ModuleList(BlockLinear(a, b, nhead) for a, b in pairwise(sizes))


def split_heads(x_BTD: Tensor, nhead: int) -> Tensor:
    """Views x_BTD as (N, M, I), with M = B·T and N·I = D."""
    return x_BTD.reshape(-1, nhead, x_BTD.shape[-1] // nhead).transpose(0, 1)


def merge_heads(x_NMI: Tensor) -> Tensor:
    """(N, M, I) → (M, N·I); copies when N > 1."""
    return x_NMI.transpose(0, 1).flatten(1)


def make_activation(activation: Callable[[], nn.Module] | nn.Module) -> nn.Module:
    """An activation module from a class or an instance.

    SpeechBrain's ``Swish`` with its default β = 1 is ``nn.SiLU``, which keeps one tensor for the
    backward pass where Swish keeps three. (Told by name: mixers alone do not import SpeechBrain.)

    Raises:
        InputError: an activation in place.
    """
    module = activation if isinstance(activation, nn.Module) else activation()
    if getattr(module, "inplace", False):
        raise InputError(
            f"{module} would overwrite what the layers before and beside it need: give "
            "inplace=False."
        )
    if type(module).__name__ == "Swish" and getattr(module, "beta", None) == 1:
        return nn.SiLU()
    return module
