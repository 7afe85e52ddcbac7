"""What a stranger's description may ask for: no more than the weights beside it hold.

A ``config.json`` of a hundred bytes can ask for a million layers. The tensors are there already
when it is read, so a model that needs more of them is refused while it is being built.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from summarymixing_modules.bundles.manifest import BundleError
from summarymixing_modules.models.describe import build

#: A model may build this many times the parameters that it keeps: a branchformer makes its layers
#: twice, the second time with the mixer.
_SPARE = 4
#: A whole number in a description may be as large as the largest dimension of a tensor, or as this.
_USUAL_SIZE = 4096
#: Largest values of features' settings: samples a second, of a window, milliseconds, others.
_FEATURE_LIMITS = {"sample_rate": 10**6, "n_fft": 2**16, "win_length": 10**4, "hop_length": 10**4}
_FEATURE_SIZE = 1024


def build_within(description: object, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Builds a model, unless it needs more than there is to fill it with.

    Args:
        description: see ``models.describe``.
        tensors: what the weights file holds for it.

    Raises:
        BundleError: the model has more or larger parts than the weights.
        InputError: see ``models.describe.build``.
    """
    _check_numbers(description, tensors)
    with _bounded(tensors):
        return build(description)


def check_feature_sizes(settings: Mapping[str, Any]) -> None:
    """Refuses settings of features that take more memory or time than any recogniser's.

    Raises:
        BundleError: names the setting and its limit.
    """
    for key, value in settings.items():
        limit = _FEATURE_LIMITS.get(key, _FEATURE_SIZE)
        if isinstance(value, int | float) and not abs(value) <= limit:  # NaN is refused, too
            raise BundleError(
                f"the bundle's features have {key} {value:g}, and at most {limit:g} is loaded."
            )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuses weights that are not numbers: a model of them says nothing, or the same of all audio.

    Raises:
        BundleError: names a tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BundleError(
                f"the weights hold NaN or infinity, in {name}: the training has failed. Export "
                "other checkpoints."
            )


def _check_numbers(description: object, tensors: Mapping[str, Tensor]) -> None:
    limit = max([_USUAL_SIZE, *(size for tensor in tensors.values() for size in tensor.shape)])
    for key, number in _numbers("", description):
        if not math.isfinite(number) or (isinstance(number, int) and abs(number) > limit):
            raise BundleError(
                f"the description of the model has {key} {number}, and no tensor of the weights "
                f"is larger than {limit}: they do not belong together."
            )


def _numbers(key: str, node: object) -> Iterator[tuple[str, float]]:
    """Every number of a description, with the nearest key above it."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _numbers(str(name), value)
    elif isinstance(node, list):
        for value in node:
            yield from _numbers(key, value)
    elif isinstance(node, int | float):
        yield key, node


@contextmanager
def _bounded(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, this thread cannot register many more parameters than there are tensors."""
    thread = threading.get_ident()
    left = {
        "tensors": _SPARE * (len(tensors) + 1),
        "numbers": _SPARE * (sum(tensor.numel() for tensor in tensors.values()) + 1),
    }

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None or threading.get_ident() != thread:
            return
        left["tensors"] -= 1
        left["numbers"] -= parameter.numel()
        if min(left.values()) < 0:
            raise BundleError(
                f"the description asks for a larger model than the weights are for: with {name} "
                f"{tuple(parameter.shape)} of a {type(module).__name__} it has more than {_SPARE} "
                f"times the {len(tensors)} tensors of the file, or their numbers."
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
