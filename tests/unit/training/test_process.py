"""How a train.py ends: one line, and an exit status that tells what it was."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import pytest

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.process import run


def end(action: Callable[[], object]) -> int | str | None:
    """What a process that does this would exit with."""
    with pytest.raises(SystemExit) as ended:
        run(lambda argv: action())
    return ended.value.code


def fail(error: BaseException) -> Callable[[], object]:
    def action() -> None:
        raise error

    return action


def test_what_a_person_can_mend_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/train_log.txt")
    for error, told in [
        (InputError("give --x."), "error: give --x.\n"),
        (full, "error: the disk is full: run/train_log.txt. Make room, "),
    ]:
        assert end(fail(error)) == 1
        assert capsys.readouterr().err.startswith(told)
    with pytest.raises(KeyError):
        run(lambda argv: fail(KeyError("a fault of the code"))())


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_is_one_line(
    number: int, status: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as stop:
            stop.add_note("The last checkpoint is there.")
            raise

    before = signal.getsignal(number)
    assert end(stopped) == status
    assert capsys.readouterr().err == f"\nStopped by {name}. The last checkpoint is there.\n"
    assert end(lambda: os.kill(os.getpid(), number)) == status
    assert "The same command starts it again." in capsys.readouterr().err
    assert signal.getsignal(number) is before
