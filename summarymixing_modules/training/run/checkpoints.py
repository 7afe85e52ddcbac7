"""Checkpoints that are complete or absent, and that refuse a model of another architecture.

SpeechBrain's checkpointer writes in place: a kill during a save leaves a folder that looks whole,
and the next run dies loading it. Here a checkpoint is written into a hidden folder beside the
others, flushed to the disk, and renamed into place when every rank is done; before it is deleted
it is renamed out of the way. A rename is one step for the file system. What was written is known
by its SHA-256: what differs when it is read is told, and neither used nor deleted.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    Checkpoint,
    Checkpointer,
    ckpt_recency,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.run.checkpoint_files import (
    DamagedCheckpointError,
    cannot_write,
    plain,
    verify,
    write_sums,
)
from summarymixing_modules.training.run.checkpoint_folders import (
    clean_up,
    delete,
    publish,
    staging_folder,
)

logger = get_logger(__name__)

# Keys in the meta of a checkpoint: the model's architecture, and how the best of its run are told.
ARCHITECTURE, RANKING = "architecture", "ranking"


class ArchitectureMismatchError(InputError):
    """The checkpoint was made with another model than the one that should load it."""


class NoCheckpointError(InputError):
    """There is no checkpoint to load."""


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, whose checkpoints a kill cannot leave half written.

    Under DDP rank 0 makes, renames and deletes the folders; recoverables whose save hook runs on
    all ranks (``save_on_main_only=False``) may write a file per rank. Call `clean_up`,
    `save_checkpoint`, `save_and_keep_only` and `delete_checkpoints` on every rank.

    Making one touches nothing on the disk. Whoever only reads makes it ``read_only``: it may read
    the folder of a training that is at work, inside `checkpoint_files.while_they_last`, since that
    training deletes what it no longer needs.

    Args:
        checkpoints_dir: where the checkpoints lie.
        recoverables: name to object, as for SpeechBrain's Checkpointer.
        custom_load_hooks: name to loader, likewise.
        custom_save_hooks: name to saver, likewise.
        allow_partial_load: load what a checkpoint has, and leave the rest.
        architecture: what decides the shape of the model, such as ``{"attention_type":
            "SummaryMixing", "d_model": 256}``. Saved in the meta and compared before loading.
        read_only: what would write, rename or delete raises RuntimeError.
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
        read_only: bool = False,
    ) -> None:
        # SpeechBrain makes the folder here, which is done when there is something to save.
        super().__init__(
            os.curdir, recoverables, custom_load_hooks, custom_save_hooks, allow_partial_load
        )
        self.checkpoints_dir = Path(checkpoints_dir)
        self.architecture: dict[str, Any] = dict(architecture or {})
        self.read_only = read_only

    def clean_up(self) -> None:
        """Clean up after a kill: finish deletions, undo replacements, drop unfinished saves.

        A training calls it when it begins. Folders that a live process writes into stay.
        """
        self._check_writable()
        if if_main_process() and self.checkpoints_dir.is_dir():
            clean_up(self.checkpoints_dir)
        ddp_barrier()  # no rank lists the checkpoints before the restored ones are among them

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
            SaveError: it could not be written: the disk is full, say.
        """
        self._check_writable()
        visible = self.checkpoints_dir
        final = self._custom_checkpoint_dirpath(name) if name else self._new_checkpoint_dirpath()
        staging = staging_folder(visible)
        self.checkpoints_dir = staging
        try:
            staged = super().save_checkpoint(
                meta=plain({**(meta or {}), ARCHITECTURE: self.architecture}, "meta"),
                end_of_epoch=end_of_epoch,
                name=final.name.removeprefix(f"{CKPT_PREFIX}+"),
                verbosity=logging.NOTSET,  # its message would name the hidden folder
            )
            ddp_barrier()  # every rank has written its files
            if staged is not None:
                write_sums(staged.path)
                publish(staged.path, final)
                logger.log(verbosity, f"Saved a checkpoint in {final}")
        except (OSError, RuntimeError) as error:
            told = cannot_write(error, visible)
            if told is None:
                raise
            raise told from None
        finally:
            self.checkpoints_dir = visible
            shutil.rmtree(staging, ignore_errors=True)  # a half one takes space
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
        self._check_writable()
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
                delete(path)
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

    def list_checkpoints(self) -> list[Checkpoint]:
        """All checkpoints, in no order.

        Raises:
            DamagedCheckpointError: one has no meta file, or one that cannot be read.
        """
        while True:
            folders = self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*")
            found = [self._read_meta(folder) for folder in folders if folder.is_dir()]
            if None not in found:
                return [checkpoint for checkpoint in found if checkpoint is not None]

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load all recoverables from a checkpoint.

        Raises:
            ArchitectureMismatchError: it was made with another architecture (found before any
                weight is loaded), or its weights do not fit the model.
            DamagedCheckpointError: a file is missing, or is not what was saved.
        """
        self.check_architecture(checkpoint)
        self.verify(checkpoint)
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
        wanted = plain(self.architecture, ARCHITECTURE)
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

    def verify(self, checkpoint: Checkpoint, *names: str) -> None:
        """Compare the files of recoverables with what was saved.

        Args:
            checkpoint: which.
            *names: of recoverables; without them, all that this checkpointer has.

        Raises:
            DamagedCheckpointError: a file is missing, or differs.
        """
        verify(checkpoint.path, names or self.recoverables)

    def where_to_go_on(self) -> str:
        """For a person who has stopped a training: what is there, and how to go on."""
        newest = self.find_checkpoint()
        if newest is None:
            return (
                "There is no checkpoint yet: the same command starts anew (with "
                "--ckpt_interval_minutes=15 there are checkpoints within epochs, too)."
            )
        minutes = (time.time() - newest.meta["unixtime"]) / 60
        return (
            f"The last checkpoint is {newest.path}, {minutes:.0f} minutes old: the same command "
            "goes on from there."
        )

    def _check_writable(self) -> None:
        if self.read_only:
            raise RuntimeError(f"The checkpoints in {self.checkpoints_dir} are read only here.")

    def _read_meta(self, folder: Path) -> Checkpoint | None:
        """A checkpoint with its meta; None if it is gone by now."""
        try:
            (checkpoint,) = self._construct_checkpoint_objects([folder])
        except FileNotFoundError:
            if not folder.exists():
                return None
            raise DamagedCheckpointError(folder, f"it has no {METAFNAME}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise DamagedCheckpointError(folder, f"its {METAFNAME} is not readable") from None
        if not isinstance(checkpoint.meta, dict) or "unixtime" not in checkpoint.meta:
            raise DamagedCheckpointError(folder, f"its {METAFNAME} is not whole")
        return checkpoint
