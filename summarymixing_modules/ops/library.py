"""Operators of PyTorch made here: ``torch.compile`` calls them and does not look inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from summarymixing_modules.ops.precision import full_precision

LIBRARY = torch.library.Library("summarymixing", "FRAGMENT")


def register_operator(
    schema: str, compute: Callable[..., Any], room: Callable[..., Any]
) -> torch._ops.OpOverload:
    """Makes a function an operator, in the precision of its own choice.

    ``torch.library.custom_op`` does the same, and imports the compiler (seconds) at the first call.

    Args:
        schema: name, arguments and results; the first argument is a tensor.
        compute: the function; autocast does not reach into it.
        room: returns uninitialised results, for shapes.
    """

    def compute_as_written(*inputs: Any) -> Any:
        with full_precision(inputs[0].device):
            return compute(*inputs)

    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, compute_as_written, "CompositeExplicitAutograd")
    torch.library.register_fake(f"summarymixing::{name}", room, lib=LIBRARY)
    return getattr(torch.ops.summarymixing, name).default
