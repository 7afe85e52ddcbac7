"""Activation checkpointing (arXiv 1604.06174): memory for time, layer by layer.

Of a layer only the input is kept; its backward pass computes the rest again, with the random
numbers of the forward pass. Results and gradients are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def run_layer(layer: nn.Module, checkpointed: bool, *inputs: Any, **options: Any) -> Any:
    """Calls a layer, in training without keeping its activations if asked for.

    Args:
        layer: any module.
        checkpointed: False is a plain call, and so is a call that needs no gradients.
        *inputs: of the layer.
        **options: of the layer.

    Returns:
        What the layer returns.
    """
    if not (checkpointed and layer.training and torch.is_grad_enabled()):
        return layer(*inputs, **options)
    norms = [module for module in layer.modules() if isinstance(module, _NormBase)]
    if norms:

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _restored(norms)

        options["context_fn"] = contexts
    return checkpoint(layer, *inputs, use_reentrant=False, **options)


@contextmanager
def _restored(norms: list[_NormBase]) -> Iterator[None]:
    """Leaves the running statistics as they are: the first forward pass has updated them."""
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
