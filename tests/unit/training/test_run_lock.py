"""One process at a time in a folder: who is told, and what a kill leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.run import run_lock
from summarymixing_modules.training.run.run_lock import (
    KEPT_FOR,
    LOCK,
    FolderInUseError,
    FolderLock,
    hold,
    release_all,
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[int]:
    """The number of another process, which holds the lock of the folder until it is killed."""
    ready, told = os.pipe()
    if (child := os.fork()) == 0:
        try:
            lock = FolderLock(tmp_path)
            os.write(told, b"1" if lock.acquire() else b"0")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"1"
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def kill(process: int) -> None:
    """Kill a process, and wait until its files are closed; it stays a zombie for the fixture."""
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def test_a_second_process_is_told_who_is_there(holder: int, tmp_path: Path) -> None:
    with pytest.raises(FolderInUseError) as error:
        hold(tmp_path)
    text = str(error.value)
    assert f"in use by process {holder} on {socket.gethostname()}, since 20" in text
    assert "another --output_folder" in text and "--test_only" in text
    assert hold(tmp_path / "other") is not None
    kill(holder)
    assert hold(tmp_path) is not None, "a lock that was killed is free"


def test_a_process_may_ask_again(tmp_path: Path) -> None:
    lock = hold(tmp_path)
    assert hold(tmp_path) is lock is not None
    assert FolderLock(tmp_path).acquire() is False, "unlike others"
    del lock
    again = FolderLock(tmp_path)
    assert again.acquire(), "nobody keeps it any more"
    release_all()
    assert (tmp_path / LOCK).read_text() == "", "it has ended in order"
    assert hold(tmp_path) is not None


def test_what_is_forked_does_not_keep_it(tmp_path: Path) -> None:
    """A loading worker outlives its trainer by seconds."""
    lock = hold(tmp_path)
    ready, told = os.pipe()
    if (child := os.fork()) == 0:
        os.write(told, b"1")
        signal.pause()
    os.read(ready, 1)
    del lock
    free = FolderLock(tmp_path).acquire()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert free


def test_what_a_runner_has_started_does_not_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    for name, value in lock.environment().items():
        monkeypatch.setenv(name, value)
    assert KEPT_FOR in os.environ and hold(tmp_path) is None
    assert hold(tmp_path / "inside") is not None, "of its own folder alone"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    holder: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    """Processes of this host are kept out by the record; of others a person has to know."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FolderInUseError, match=f"process {holder} "):
        hold(tmp_path)
    monkeypatch.setattr(run_lock, "is_running", lambda pid: False)
    assert hold(tmp_path) is not None
    assert f"has no locks ({os.strerror(number)})" in caplog.text


def test_a_process_of_another_machine_that_was_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the file system's locks do not reach there, it may still run."""
    who = {"host": "elsewhere", "pid": 7, "since": "yesterday", "command": "train.py"}
    (tmp_path / LOCK).write_text(json.dumps(who))
    assert hold(tmp_path) is not None
    assert "Process 7 on elsewhere worked in" in caplog.text and "stop it" in caplog.text


def test_a_folder_that_cannot_be_written_in() -> None:
    with pytest.raises(InputError, match="--output_folder=/proc/run cannot be written in"):
        hold(Path("/proc/run"))
