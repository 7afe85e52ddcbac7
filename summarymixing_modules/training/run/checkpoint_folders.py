"""How checkpoints come and go, in steps that a kill, and another process, may fall between."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from pathlib import Path

from speechbrain.utils.checkpoints import CKPT_PREFIX
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.files import sync_to_disk
from summarymixing_modules.training.run.run_lock import is_running

logger = get_logger(__name__)

SAVING = ".saving+"  # + host + pid of the process that writes in this folder
DELETING = ".deleting+"  # + the checkpoint's name
REPLACED = ".replaced+"  # + the checkpoint's name; a newer one of this name is taking its place
OTHER_HOST_GRACE = 3600.0  # seconds without a write after which another host's save is dead


def staging_folder(folder: Path) -> Path:
    """Where this process writes a checkpoint before it appears in a folder."""
    return folder / f"{SAVING}{socket.gethostname()}+{os.getpid()}"


def publish(staged: Path, final: Path) -> None:
    """Give its name to a checkpoint that has been written and flushed."""
    replaced = final.with_name(f"{REPLACED}{final.name}")
    if final.exists():
        os.rename(final, replaced)
    os.rename(staged, final)
    sync_to_disk(final.parent)
    remove(replaced)
    staged.parent.rmdir()


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint: it is gone at once, or whole."""
    doomed = checkpoint.with_name(f"{DELETING}{checkpoint.name}")
    with contextlib.suppress(FileNotFoundError):  # somebody has deleted it already
        os.rename(checkpoint, doomed)
    remove(doomed)


def remove(folder: Path) -> None:
    """Delete a folder with all that is in it; another process may be deleting it, too."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def clean_up(folder: Path) -> None:
    """After a kill: finish deletions, undo replacements, drop unfinished saves of the dead."""
    for path in sorted(folder.iterdir()):
        name = path.name
        visible = path.with_name(name.removeprefix(REPLACED))
        if name.startswith(f"{REPLACED}{CKPT_PREFIX}+") and not visible.exists():
            os.rename(path, visible)
            logger.warning(f"Restored {visible}: the save that should replace it was killed.")
        elif name.startswith((f"{DELETING}{CKPT_PREFIX}+", f"{REPLACED}{CKPT_PREFIX}+")):
            remove(path)
        elif name.startswith(SAVING) and _is_abandoned(path):
            remove(path)
            logger.warning(f"Removed {path}: the save that wrote it was killed.")


def _is_abandoned(staging: Path) -> bool:
    """Whether nobody writes into this hidden folder any more."""
    host, _, pid = staging.name.removeprefix(SAVING).rpartition("+")
    if not pid.isdigit():
        return False  # not a name of ours
    if host == socket.gethostname():
        # This process saves nothing yet, so a folder of its number is of an earlier process.
        return int(pid) == os.getpid() or not is_running(int(pid))
    newest = max(path.stat().st_mtime for path in [staging, *staging.rglob("*")])
    return time.time() - newest > OTHER_HOST_GRACE
