"""Checkpoints that are complete or absent, and that refuse a model of another architecture.

SpeechBrain's checkpointer writes in place: a kill during a save leaves a folder that looks whole,
and the next run dies loading it. Here a checkpoint is written into a hidden folder beside the
others, flushed to the disk, and renamed into place when every rank is done; before it is deleted
it is renamed out of the way. A rename is one step for the file system.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.utils.checkpoints import CKPT_PREFIX, Checkpoint, Checkpointer, ckpt_recency
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.files import sync_to_disk
from summarymixing_modules.errors import InputError

logger = get_logger(__name__)

ARCHITECTURE = "architecture"  # its key in the meta of a checkpoint
SAVING = ".saving+"  # + host + pid of the process that writes in this folder
DELETING = ".deleting+"  # + the checkpoint's name
REPLACED = ".replaced+"  # + the checkpoint's name; a newer one of this name is taking its place
OTHER_HOST_GRACE = 3600.0  # seconds without a write after which another host's save is dead


class ArchitectureMismatchError(InputError):
    """The checkpoint was made with another model than the one that should load it."""


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, whose checkpoints a kill cannot leave half written.

    Under DDP rank 0 makes, renames and deletes the folders; recoverables whose save hook runs on
    all ranks (``save_on_main_only=False``) may write a file per rank. Call `save_checkpoint`,
    `save_and_keep_only` and `delete_checkpoints` on every rank.

    Leftovers of saves that were killed are removed when the checkpointer is made. A hidden folder
    that a live process writes into is left alone, so evaluating beside a training run is safe.

    Args:
        checkpoints_dir: where the checkpoints lie; made if missing.
        recoverables: name to object, as for SpeechBrain's Checkpointer.
        custom_load_hooks: name to loader, likewise.
        custom_save_hooks: name to saver, likewise.
        allow_partial_load: load what a checkpoint has, and leave the rest.
        architecture: what decides the shape of the model, such as ``{"attention_type":
            "SummaryMixing", "d_model": 256}``. Saved in the meta and compared before loading.
    """

    checkpoints_dir: Path
    otherwise: str = "another --output_folder"  # the way out that errors offer

    def __init__(
        self,
        checkpoints_dir: str | Path,
        recoverables: Mapping[str, Any] | None = None,
        custom_load_hooks: Mapping[str, Callable[..., None]] | None = None,
        custom_save_hooks: Mapping[str, Callable[..., None]] | None = None,
        allow_partial_load: bool = False,
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            checkpoints_dir, recoverables, custom_load_hooks, custom_save_hooks, allow_partial_load
        )
        self.architecture: dict[str, Any] = dict(architecture or {})
        if if_main_process():
            self._remove_leftovers()

    def save_checkpoint(
        self,
        meta: Mapping[str, Any] | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        verbosity: int = logging.INFO,
    ) -> Checkpoint | None:
        """Save all recoverables; the checkpoint appears under its name once it is whole.

        Args:
            meta: scalars to store with it; numpy and tensor scalars become Python numbers.
            end_of_epoch: False for a checkpoint in the middle of an epoch.
            name: name after ``CKPT+``, replacing a checkpoint of that name; a time stamp if None.
            verbosity: logging level of the message that it was saved.

        Returns:
            The checkpoint on rank 0, None on the others.

        Raises:
            TypeError: a meta value is no scalar, list or mapping of scalars.
        """
        visible = self.checkpoints_dir
        final = self._custom_checkpoint_dirpath(name) if name else self._new_checkpoint_dirpath()
        staging = visible / f"{SAVING}{socket.gethostname()}+{os.getpid()}"
        if if_main_process():
            shutil.rmtree(staging, ignore_errors=True)  # of a save that failed in this process
        self.checkpoints_dir = staging
        try:
            staged = super().save_checkpoint(
                meta=_plain({**(meta or {}), ARCHITECTURE: self.architecture}, "meta"),
                end_of_epoch=end_of_epoch,
                name=final.name.removeprefix(f"{CKPT_PREFIX}+"),
                verbosity=logging.NOTSET,  # its message would name the hidden folder
            )
        finally:
            self.checkpoints_dir = visible
        ddp_barrier()  # every rank has written its files
        if staged is not None:
            self._publish(staged.path, final)
            logger.log(verbosity, f"Saved a checkpoint in {final}")
        ddp_barrier()  # no rank lists the checkpoints before this one is among them
        return None if staged is None else self._construct_checkpoint_objects([final])[0]

    def save_and_keep_only(
        self,
        meta: Mapping[str, Any] | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        num_to_keep: int = 1,
        keep_recent: bool = True,
        importance_keys: Iterable[Callable[[Checkpoint], Any]] = (),
        max_keys: Iterable[str] = (),
        min_keys: Iterable[str] = (),
        ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Save a checkpoint, then delete all but the most important; see SpeechBrain's method."""
        super().save_and_keep_only(
            meta=meta,
            end_of_epoch=end_of_epoch,
            name=name,
            num_to_keep=num_to_keep,
            keep_recent=keep_recent,
            importance_keys=list(importance_keys),  # the parent appends to the list it is given
            max_keys=max_keys,
            min_keys=min_keys,
            ckpt_predicate=ckpt_predicate,
            verbosity=verbosity,
        )

    def delete_checkpoints(
        self,
        *,
        num_to_keep: int = 1,
        min_keys: Iterable[str] | None = None,
        max_keys: Iterable[str] | None = None,
        importance_keys: Iterable[Callable[[Checkpoint], Any]] = (ckpt_recency,),
        ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Delete the checkpoints that rank below `num_to_keep` in every one of the given orders.

        Args:
            num_to_keep: how many to keep in each order; 0 deletes all that `ckpt_predicate` admits.
            min_keys: meta keys whose lowest values are kept.
            max_keys: meta keys whose highest values are kept.
            importance_keys: functions of a checkpoint whose highest values are kept.
            ckpt_predicate: only checkpoints for which this is True may be deleted.
            verbosity: logging level of the messages.

        Raises:
            ValueError: `num_to_keep` is negative.
        """
        if num_to_keep < 0:
            raise ValueError(f"num_to_keep must be at least 0, not {num_to_keep}.")
        orders: list[dict[str, Any]] = [{"min_key": key} for key in min_keys or ()]
        orders += [{"max_key": key} for key in max_keys or ()]
        orders += [{"importance_key": key} for key in importance_keys]
        ddp_barrier()  # no rank is still saving or loading
        if if_main_process():
            ranked = [
                [c.path for c in self.find_checkpoints(ckpt_predicate=ckpt_predicate, **order)]
                for order in orders
            ]
            kept = {path for paths in ranked for path in paths[:num_to_keep]}
            for path in sorted({path for paths in ranked for path in paths} - kept):
                self._delete(path)
                logger.log(verbosity, f"Deleted the checkpoint {path}")
        ddp_barrier()

    def find_checkpoints(
        self,
        importance_key: Callable[[Checkpoint], Any] | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
        max_num_checkpoints: int | None = None,
    ) -> list[Checkpoint]:
        """List checkpoints, best first; one whose `max_key` or `min_key` is NaN cannot be best."""

        def comparable(checkpoint: Checkpoint) -> bool:
            value = checkpoint.meta.get(max_key or min_key, 0)
            is_nan = isinstance(value, float) and math.isnan(value)
            return not is_nan and (ckpt_predicate is None or ckpt_predicate(checkpoint))

        return super().find_checkpoints(
            importance_key=importance_key,
            max_key=max_key,
            min_key=min_key,
            ckpt_predicate=comparable if max_key or min_key else ckpt_predicate,
            max_num_checkpoints=max_num_checkpoints,
        )

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load all recoverables from a checkpoint.

        Raises:
            ArchitectureMismatchError: it was made with another architecture (found before any
                weight is loaded), or its weights do not fit the model.
        """
        self.check_architecture(checkpoint)
        try:
            super().load_checkpoint(checkpoint)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            lines = [line.strip() for line in str(error).splitlines()]
            summary = "\n".join(f"  {line[:160]}" for line in lines[:4])
            more = f"\n  ... and {len(lines) - 4} more lines" if len(lines) > 4 else ""
            raise ArchitectureMismatchError(
                f"The weights in {checkpoint.path} do not fit this model; give "
                f"{self.otherwise}, or the options it was trained with.\n{summary}{more}"
            ) from None

    def check_architecture(self, checkpoint: Checkpoint) -> None:
        """Compare the architecture stored with a checkpoint with this checkpointer's.

        Keys that only one of the two has are not compared: older checkpoints stay loadable.

        Raises:
            ArchitectureMismatchError: they differ; names both, and the options to give.
        """
        made = checkpoint.meta.get(ARCHITECTURE) or {}
        wanted = _plain(self.architecture, ARCHITECTURE)
        different = [key for key in made if key in wanted and made[key] != wanted[key]]
        if not different:
            return
        flags = " ".join(f"--{key}={made[key]}" for key in different)
        raise ArchitectureMismatchError(
            f"The checkpoint {checkpoint.path} was made with "
            f"{', '.join(f'{key} {made[key]}' for key in different)}, but this run asks for "
            f"{', '.join(f'{key} {wanted[key]}' for key in different)}. Give {flags}, "
            f"or {self.otherwise}."
        )

    def _publish(self, staged: Path, final: Path) -> None:
        """Flush a written checkpoint to the disk and give it its name."""
        for file in staged.iterdir():
            sync_to_disk(file)
        sync_to_disk(staged)
        replaced = final.with_name(f"{REPLACED}{final.name}")
        if final.exists():
            os.rename(final, replaced)
        os.rename(staged, final)
        sync_to_disk(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        staged.parent.rmdir()

    def _delete(self, checkpoint: Path) -> None:
        doomed = checkpoint.with_name(f"{DELETING}{checkpoint.name}")
        os.rename(checkpoint, doomed)
        shutil.rmtree(doomed)

    def _remove_leftovers(self) -> None:
        """Clean up after a kill: finish deletions, undo replacements, drop unfinished saves."""
        for path in sorted(self.checkpoints_dir.iterdir()):
            name = path.name
            visible = path.with_name(name.removeprefix(REPLACED))
            if name.startswith(f"{REPLACED}{CKPT_PREFIX}+") and not visible.exists():
                os.rename(path, visible)
                logger.warning(f"Restored {visible}: the save that should replace it was killed.")
            elif name.startswith((f"{DELETING}{CKPT_PREFIX}+", f"{REPLACED}{CKPT_PREFIX}+")):
                shutil.rmtree(path)
            elif name.startswith(SAVING) and _is_abandoned(path):
                shutil.rmtree(path)
                logger.warning(f"Removed {path}: the save that wrote it was killed.")


def _is_abandoned(staging: Path) -> bool:
    """Whether nobody writes into this hidden folder any more."""
    host, _, pid = staging.name.removeprefix(SAVING).rpartition("+")
    if not pid.isdigit():
        return False  # not a name of ours
    if host == socket.gethostname():
        # This process saves nothing yet, so a folder of its number is of an earlier process.
        return int(pid) == os.getpid() or not _is_running(int(pid))
    newest = max(path.stat().st_mtime for path in [staging, *staging.rglob("*")])
    return time.time() - newest > OTHER_HOST_GRACE


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _plain(value: Any, where: str) -> Any:
    """Turn numpy and tensor scalars into Python's, inside mappings and lists too.

    YAML stores anything else as a Python object, which no later listing of checkpoints can read.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        if math.prod(value.shape) != 1:
            raise TypeError(f"{where} must be one number, not an array of shape {value.shape}.")
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{where} must be a number, text, list or mapping, not {type(value).__name__}.")
