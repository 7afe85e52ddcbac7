"""What lies in the folder of a checkpoint: is it whole, is it what was saved, is it still there."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shlex
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from speechbrain.utils.checkpoints import CKPT_PREFIX, METAFNAME
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.files import sync_to_disk
from summarymixing_modules.errors import InputError

logger = get_logger(__name__)

SUMS = "SHA256SUMS"  # in every checkpoint; `sha256sum -c SHA256SUMS` checks it by hand
MOVED = "damaged+"  # before the name of a checkpoint that a person has put aside
ATTEMPTS = 10  # at reading checkpoints that a training deletes meanwhile
_FULL = (errno.ENOSPC, errno.EDQUOT)

_Read = TypeVar("_Read")


class DamagedCheckpointError(InputError):
    """A checkpoint is not what was saved; it is never deleted, and never passed over in silence."""

    def __init__(self, checkpoint: Path, why: str) -> None:
        aside = checkpoint.with_name(MOVED + checkpoint.name)
        super().__init__(
            f"The checkpoint {checkpoint} is damaged: {why}. Restore it from a copy, or put it "
            "aside, and the newest or best of the others is taken: "
            + shlex.join(["mv", str(checkpoint), str(aside)])
        )


class SaveError(InputError):
    """A checkpoint could not be written; what was there before is still there."""


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file of a checkpoint, and flush all of them to the disk."""
    files = sorted(file for file in folder.iterdir() if file.name != SUMS)
    lines = [f"{_digest(file)}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    for file in [*files, folder / SUMS, folder]:
        sync_to_disk(file)


def verify(checkpoint: Path, names: Collection[str]) -> None:
    """Compare files of a checkpoint with what was saved.

    Args:
        checkpoint: its folder.
        names: of the recoverables that are going to be read; of some every rank has a file.

    Raises:
        DamagedCheckpointError: one is missing, or differs.
        FileNotFoundError: the whole checkpoint is gone.
    """
    if not (checkpoint / SUMS).exists():
        if not checkpoint.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(checkpoint / SUMS))
        logger.warning(f"{checkpoint} has no {SUMS}: whether it is damaged cannot be told.")
        return
    lines = (checkpoint / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {*sums, *(file.name for file in checkpoint.iterdir())}
    wanted = [name for name in found if Path(name).stem.partition("-rank")[0] in names]
    for name in [METAFNAME, *sorted(wanted)]:
        file = checkpoint / name
        if name not in sums:
            raise DamagedCheckpointError(checkpoint, f"{SUMS} does not list {name}")
        if not file.exists() and checkpoint.exists():
            raise DamagedCheckpointError(checkpoint, f"{name} is missing")
        if _digest(file) != sums[name]:
            size = file.stat().st_size
            how = "is empty" if size == 0 else f"({size} bytes) is not what was saved"
            raise DamagedCheckpointError(checkpoint, f"{name} {how}")


def while_they_last(read: Callable[[], _Read]) -> _Read:
    """Read checkpoints that a training may delete meanwhile: again with those that are there then.

    Args:
        read: lists checkpoints and reads some; may be called several times.

    Raises:
        InputError: they are deleted faster than they can be read.
    """
    for _ in range(ATTEMPTS):
        try:
            return read()
        except FileNotFoundError as error:
            gone = _vanished(error)
            if gone is None:
                raise
            logger.info(f"{gone} was deleted while it was read: reading what is there now.")
    raise InputError(
        f"The training deletes checkpoints faster than they can be read ({ATTEMPTS} of them, the "
        f"last one {gone}). Try again, or read a copy of the folder."
    )


def cannot_write(error: Exception, folder: Path) -> SaveError | None:
    """What to tell when a checkpoint cannot be written; None if that is not what went wrong.

    Args:
        error: of the save.
        folder: of the checkpoints.
    """
    reason, remedy = str(error), "mend that"
    if isinstance(error, OSError):
        reason = error.strerror or reason
    elif "PytorchStreamWriter" not in reason and "inline_container" not in reason:
        return None
    else:
        reason = "torch could not write the whole of a file"  # it does not tell why
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / 2**20
    if not isinstance(error, OSError) or error.errno in _FULL:
        remedy = f"make room ({free:.0f} MB are free)"
    before = sorted(path.name for path in folder.glob(f"{CKPT_PREFIX}+*"))
    kept = f"{', '.join(before)} is still there" if before else "there was none before"
    return SaveError(
        f"No checkpoint could be written into {folder}: {reason}. Nothing is lost: {kept}. Please "
        f"{remedy}, and give the same command again."
    )


def plain(value: Any, where: str) -> Any:
    """Turn numpy and tensor scalars into Python's, inside mappings and lists too.

    YAML stores anything else as a Python object, which no later listing of checkpoints can read.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}[{key}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        if math.prod(value.shape) != 1:
            raise TypeError(f"{where} must be one number, not an array of shape {value.shape}.")
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{where} must be a number, text, list or mapping, not {type(value).__name__}.")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _vanished(error: FileNotFoundError) -> Path | None:
    """The checkpoint that an error is about, if the whole of it is gone."""
    parts = [Path(os.fsdecode(error.filename))] if error.filename else []
    folders = [p for path in parts for p in (path, *path.parents) if p.name.startswith(CKPT_PREFIX)]
    return folders[-1] if folders and not folders[-1].exists() else None
