"""One process at a time in a folder, for as long as the training in it lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

LOCK = ".table_run.lock"


class FolderLock:
    """A lock that is handed on to the processes that are started under it.

    ``filelock`` frees its lock when the process that took it dies. Here a training may outlive the
    runner that was killed, and must not be joined by a second one: the lock belongs to an open file
    (flock), which ends when all processes that were given `descriptor` have ended.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / LOCK
        self.descriptor = -1

    def acquire(self) -> bool:
        """Take the lock; False if another process has it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Close this process's hold."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
