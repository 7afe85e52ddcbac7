"""One process at a time in the folder of a run, for as long as what works in it lives."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from speechbrain.utils.distributed import ddp_broadcast, if_main_process
from speechbrain.utils.logger import get_logger

from summarymixing_modules.errors import InputError

logger = get_logger(__name__)

LOCK = ".run.lock"
#: In the environment: the folder whose lock the process that started this one keeps for it.
KEPT_FOR = "SUMMARYMIXING_LOCK_KEPT_FOR"
#: What file systems without locks answer (NFS without a lock daemon, Lustre without -o flock).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderInUseError(InputError):
    """Another process is at work in the folder of a run."""


class FolderLock:
    """A lock on a folder, which ends with the processes that hold it, however they end.

    ``filelock`` frees its lock when the process that took it dies. Here a training may outlive the
    runner of tables that was killed, and must not be joined by a second one: the lock belongs to
    an open file (flock), which ends when all processes that were given `descriptor` have ended.
    Nothing is stale after a kill. Processes that are forked (loading workers) do not keep it.

    The file says who holds the lock: host, process, since when, and the command. Where the file
    system has no locks, that record keeps out processes of the same host; of others a warning says
    that nothing does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / LOCK
        self.descriptor = -1

    def acquire(self) -> bool:
        """Take the lock; False if another process has it.

        Raises:
            OSError: the folder cannot be made or written in.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        _OPEN.add(self)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if not self._acquire_by_record(error):
                return False
        self._record()
        return True

    def holder(self) -> str:
        """Who holds the lock, in words."""
        who = self._read()
        if not who:
            return "another process"
        return f"process {who['pid']} on {who['host']}, since {who['since']}: {who['command']}"

    def environment(self) -> dict[str, str]:
        """For a process that is started under this lock, so that it does not ask for it itself."""
        return {KEPT_FOR: str(self.folder.resolve())}

    def release(self) -> None:
        """Close this process's hold."""
        if self.descriptor >= 0:
            os.ftruncate(self.descriptor, 0)
            self._close()

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            _OPEN.discard(self)

    def _acquire_by_record(self, error: OSError) -> bool:
        who = self._read()
        here = bool(who) and who["host"] == socket.gethostname()
        if here and who["pid"] != os.getpid() and is_running(who["pid"]):
            self._close()
            return False
        logger.warning(
            f"The file system of {self.folder} has no locks ({error.strerror}): make sure that no "
            "process on another machine works in this folder."
        )
        return True

    def _record(self) -> None:
        before = self._read()
        if before and before["host"] != socket.gethostname():
            logger.warning(
                f"Process {before['pid']} on {before['host']} worked in {self.folder} and did not "
                "end in an orderly way. If it still runs, stop it: the locks of this file system "
                "may not reach from one machine to another."
            )
        who = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}",
            "command": shlex.join(sys.argv),
        }
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(who).encode(), 0)

    def _read(self) -> Mapping[str, Any]:
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is just being written, or was left in order
            return {}

    def __del__(self) -> None:
        self.release()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


_OPEN: weakref.WeakSet[FolderLock] = weakref.WeakSet()
_HELD: weakref.WeakValueDictionary[Path, FolderLock] = weakref.WeakValueDictionary()


def hold(folder: Path) -> FolderLock | None:
    """Keep other processes out of the folder of a run while the lock that is returned exists.

    Call it on every rank: they count as one, and rank 0 holds the lock.

    Args:
        folder: made if missing.

    Returns:
        the lock, the same one if this process has it already; None on the other ranks, and where
        the process that started this one keeps it.

    Raises:
        FolderInUseError: another process has it; says who, and what to do. On every rank.
        InputError: the folder cannot be written in.
    """
    folder = folder.resolve()
    lock, refusal = None, None
    if if_main_process() and os.environ.get(KEPT_FOR) != str(folder):
        lock, refusal = _take(folder)
    if (told := ddp_broadcast(refusal)) is not None:
        raise told
    return lock


def _take(folder: Path) -> tuple[FolderLock | None, InputError | None]:
    if (held := _HELD.get(folder)) is not None:
        return held, None
    lock = FolderLock(folder)
    try:
        taken = lock.acquire()
    except OSError as error:
        return None, InputError(
            f"--output_folder={folder} cannot be written in ({error.strerror}): give a folder of "
            "your own."
        )
    if not taken:
        return None, FolderInUseError(
            f"{folder} is in use by {lock.holder()}.\nWait until it ends, stop it, or give another "
            "--output_folder. To use the model meanwhile: `summarymixing export` and `transcribe` "
            f"only read, and --test_only --save_folder={folder}/save with another --output_folder "
            "evaluates it."
        )
    _HELD[folder] = lock
    return lock, None


def release_all() -> None:
    """Let go of every folder, at the end of the process."""
    for lock in list(_OPEN):
        lock.release()


def is_running(pid: int) -> bool:
    """Whether there is a process of this number on this host."""
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _forget_locks() -> None:
    """In a forked process: its parent alone holds them."""
    for lock in list(_OPEN):
        lock._close()


os.register_at_fork(after_in_child=_forget_locks)
