"""Start from the weights of another run: fine-tuning, or another corpus with the same model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import CKPT_PREFIX, Checkpoint
from speechbrain.utils.logger import get_logger
from torch import nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.averaging import is_end_of_epoch, load_average
from summarymixing_modules.training.checkpoints import AtomicCheckpointer

logger = get_logger(__name__)


def initialise_from(
    run: str | Path,
    recoverables: Mapping[str, Any],
    architecture: Mapping[str, Any],
    averaged: int = 1,
    ranking: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Loads the best weights of a finished or stopped run into modules, and nothing else of it.

    Args:
        run: its ``output_folder``, or the folder with its checkpoints.
        recoverables: name → object, as for a checkpointer; those that are modules are loaded.
        architecture: of the modules; see ``AtomicCheckpointer``.
        averaged: mean of this many checkpoints, the best first.
        ranking: tells which are best, see ``SafeBrain.ranking``; without such, the most recent.

    Returns:
        the best checkpoint.

    Raises:
        InputError: no checkpoint there, or one of another model (``ArchitectureMismatchError``).
    """
    source = AtomicCheckpointer(
        _checkpoints_of(Path(run)),
        {name: module for name, module in recoverables.items() if isinstance(module, nn.Module)},
        architecture=architecture,
        allow_partial_load=True,
    )
    source.otherwise = "another --init_from"
    best = source.find_checkpoints(
        **(ranking or {}),  # type: ignore[arg-type]
        ckpt_predicate=is_end_of_epoch,
        max_num_checkpoints=averaged,
    )
    found = best or source.find_checkpoints(max_num_checkpoints=1)
    source.load_checkpoint(found[0])
    if len(found) > 1:
        load_average(source, found)
    logger.info(f"Starting from the weights of {found[0].path} (mean of {len(found)})")
    return found[0]


def _checkpoints_of(run: Path) -> Path:
    for folder in (run / "save", run):
        if any(folder.glob(f"{CKPT_PREFIX}+*")):
            return folder
    raise InputError(
        f"--init_from={run}: there is no checkpoint in {run / 'save'} or {run}. Give the "
        "output_folder of a run that has finished an epoch."
    )
