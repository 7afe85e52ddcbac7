"""How much memory a state holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from torch import Tensor


def state_bytes(state: object) -> int:
    """Bytes that the tensors of a state keep alive.

    A view counts with the whole storage behind it, and a storage counts once.

    Args:
        state: tensors in any nesting of dataclasses, tuples, lists and mappings.
    """
    storages = {}
    for tensor in _tensors(state):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr(), tensor.device] = storage.nbytes()
    return sum(storages.values())


def _tensors(state: object) -> Iterator[Tensor]:
    parts: list[object] = []
    if isinstance(state, Tensor):
        yield state
    elif is_dataclass(state):
        parts = [getattr(state, field.name) for field in fields(state)]
    elif isinstance(state, dict):
        parts = list(state.values())
    elif isinstance(state, list | tuple):
        parts = list(state)
    for part in parts:
        yield from _tensors(part)
