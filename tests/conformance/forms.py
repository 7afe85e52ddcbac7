"""Every form of every registered mixer, small, and what its tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from summarymixing_modules.mixers import (
    Mixer,
    MixerForm,
    MixerSize,
    UnsupportedByMixer,
    mixer_forms,
)

D, HEADS = 32, 4
FORMS = {form.name: form for form in mixer_forms()}


def make(form: MixerForm, causal: bool = False, dropout: float = 0.0) -> Mixer:
    """A mixer of one form, in eval mode, with fixed weights."""
    torch.manual_seed(0)
    return form.build(MixerSize(D, HEADS, 64, dropout, causal=causal)).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Gaussian numbers, the same in every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grad_of(x_BTD: Tensor) -> Tensor:
    """The gradient of a leaf, which must have one."""
    assert x_BTD.grad is not None
    return x_BTD.grad


def assert_close(name: str, got: Tensor, want: Tensor, tolerance: float = 2e-5) -> None:
    """Finite, and equal up to a share of the norm."""
    assert got.shape == want.shape, name
    assert got.isfinite().all(), f"{name} is not finite"
    error = (got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-12)
    assert error < tolerance, f"{name}: relative error {error:.2e}"


@contextmanager
def unless_refused(mixer: Mixer, capability: str) -> Iterator[None]:
    """What is declared must work; what is not must be refused by name, and the test ends there."""
    if getattr(mixer.capabilities, capability):
        yield
        return
    with pytest.raises(UnsupportedByMixer, match="Mixers that can: .+"):
        yield
    pytest.skip(f"not {capability}, and says so")
