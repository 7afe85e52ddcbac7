"""What a checkpoint of SpeechBrain's holds, part by part, and what of it can be converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from summarymixing_modules.bundles.assemble import check_tensors
from summarymixing_modules.conversion import names
from summarymixing_modules.conversion.yaml_file import Block
from summarymixing_modules.errors import InputError


@dataclass(frozen=True)
class Part:
    """A block whose weights a checkpoint holds.

    Attributes:
        block: of the YAML file.
        tensors: by their names in the block.
    """

    block: Block
    tensors: names.Tensors


@dataclass(frozen=True)
class Converted:
    """A model with its weights.

    Attributes:
        model: in eval mode.
        trained_as: what was trained, where only the encoder is kept.
        dropped: names of what is left out on purpose.
    """

    model: nn.Module
    trained_as: str
    dropped: list[str]


def parts_of(block: Block, tensors: Mapping[str, Tensor], prefix: str = "") -> list[Part]:
    """The blocks of a ``ModuleList`` with their tensors, or the block itself.

    Args:
        block: what the tensors belong to.
        tensors: of the block.
        prefix: of their names in the checkpoint's file.

    Raises:
        InputError: tensors of no block.
    """
    if block.name == "EncoderWrapper":
        inside = block.arguments.get("transformer", *block.items[:1])
        return _inside([("transformer", inside)], block, tensors, prefix)
    if block.name in ("ModuleList", "Sequential") and not block.arguments:
        items = block.items[0] if block.name == "ModuleList" else block.items
        return _inside([(str(k), item) for k, item in enumerate(items)], block, tensors, prefix)
    return [Part(block, dict(tensors))]


def _inside(
    blocks: Sequence[tuple[str, Any]], of: Block, tensors: Mapping[str, Tensor], prefix: str
) -> list[Part]:
    left, found = dict(tensors), []
    for name, block in blocks:
        own = {key: left.pop(key) for key in list(left) if key.startswith(f"{name}.")}
        bare = {key.removeprefix(f"{name}."): tensor for key, tensor in own.items()}
        if isinstance(block, Block):
            found += parts_of(block, bare, f"{prefix}{name}.")
        else:
            left |= own
    refuse([prefix + name for name in left], of.key)
    return found


def refuse(left: Sequence[str], where: str) -> None:
    """Raises InputError if tensors have no place in our models; names all of them."""
    if left:
        raise InputError(
            f"{where} has tensors that our models have no place for: {', '.join(sorted(left))}. "
            "Nothing is left out in silence, so this checkpoint is not converted."
        )


def fill(model: nn.Module, tensors: names.Tensors, where: str) -> None:
    """Loads the weights; buffers that are made from sizes stay as the model has made them."""
    wanted = model.state_dict()
    tensors |= {n: tensor for n, tensor in wanted.items() if names.FROM_SIZES.fullmatch(n)}
    refuse([name for name in tensors if name not in wanted], where)
    check_tensors(wanted, tensors)
    model.load_state_dict(tensors)


def single(block: Block, name: str, values: Sequence[Any]) -> Any:
    if len(set(values)) != 1:
        refuse_value(block, name, values, "one value for all")
    return values[0]


def activation(block: Block, given: Mapping[str, Any], name: str) -> type[nn.Module]:
    value = given[name]
    if not isinstance(value, type):
        refuse_value(block, name, getattr(value, "name", value), "`!name:` of an activation")
    return value


def require(block: Block, given: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, wanted in fixed.items():
        value = given[name]
        value = getattr(value, "name", getattr(value, "__name__", value))
        if value != wanted:
            refuse_value(block, name, value, wanted)


def refuse_value(block: Block, name: str, value: Any, wanted: Any) -> None:
    raise InputError(
        f"{block.key}: a {block.name} with {name}={value} cannot be converted, only with {wanted}."
    )
