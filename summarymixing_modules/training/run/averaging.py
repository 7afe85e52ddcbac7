"""The best checkpoints of a run, and the mean of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.checkpoints import (
    DEFAULT_LOAD_HOOKS,
    Checkpoint,
    average_checkpoints,
    get_default_hook,
    torch_recovery,
)

from summarymixing_modules.training.run.checkpoints import RANKING, AtomicCheckpointer


def is_end_of_epoch(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint closed an epoch (not one of those saved every few minutes or steps)."""
    return INTRA_EPOCH_CKPT_FLAG not in checkpoint.meta


def load_average(checkpointer: AtomicCheckpointer, checkpoints: Sequence[Checkpoint]) -> None:
    """Load the mean weights of checkpoints into the checkpointer's modules.

    Averages the recoverables that are plain modules; those with a loader of their own (statistics
    of input normalization, say) keep what they hold.

    Raises:
        ArchitectureMismatchError: a checkpoint was made with another architecture.
        DamagedCheckpointError: one is not what was saved.
    """
    for checkpoint in checkpoints:
        checkpointer.check_architecture(checkpoint)
        checkpointer.verify(checkpoint)
    for name, module in checkpointer.recoverables.items():
        plain = get_default_hook(module, DEFAULT_LOAD_HOOKS) is torch_recovery
        if isinstance(module, torch.nn.Module) and plain:
            if name not in checkpointer.custom_load_hooks:
                module.load_state_dict(average_checkpoints(checkpoints, name), strict=True)


def ranking_of(checkpointer: AtomicCheckpointer) -> dict[str, str]:
    """How the best checkpoints of a run are told, as its last one that closed an epoch says.

    Returns:
        ``{"min_key": …}`` or ``{"max_key": …}``; {} = by date, or nothing says how.
    """
    newest = checkpointer.find_checkpoint(ckpt_predicate=is_end_of_epoch)
    return {} if newest is None else dict(newest.meta.get(RANKING, {}))


def load_best(
    checkpointer: AtomicCheckpointer,
    max_key: str | None,
    min_key: str | None,
    count: int,
    keep: Mapping[str, Any],
) -> int:
    """Load the mean of the best checkpoints that closed an epoch.

    Args:
        checkpointer: of the run.
        max_key, min_key: entry of the meta that tells which are best; without, the most recent.
        count: how many, at most.
        keep: recoverables that stay as they are.

    Returns:
        how many there were.

    Raises:
        ArchitectureMismatchError, DamagedCheckpointError: see `load_average`.
    """
    found = checkpointer.find_checkpoints(
        max_key=max_key, min_key=min_key, ckpt_predicate=is_end_of_epoch, max_num_checkpoints=count
    )
    if not found:
        return 0
    kept = {name: checkpointer.recoverables.pop(name) for name in keep}
    try:
        checkpointer.load_checkpoint(found[0])
    finally:
        checkpointer.recoverables.update(kept)
    if len(found) > 1:
        load_average(checkpointer, found)
    return len(found)
