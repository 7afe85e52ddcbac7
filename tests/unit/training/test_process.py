"""How a train.py ends: one line, and an exit status that tells what it was."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from summarymixing_modules.errors import TRACEBACK, InputError
from summarymixing_modules.training.recipe.process import run


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


def test_the_log_of_the_run_knows_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its traceback, which people see when they ask for it."""
    log = logging.FileHandler(tmp_path / "log.txt")
    logging.getLogger().addHandler(log)
    try:
        assert end(fail(InputError("give --x."))) == 1
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    text = (tmp_path / "log.txt").read_text()
    assert text.startswith("give --x.\nTraceback") and "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv(TRACEBACK, "1")
    assert end(fail(InputError("give --x."))) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback") and told.endswith("error: give --x.\n")


def test_one_rank_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first that fails; others fail alike, or because it is gone."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)  # the agent's
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    lost = RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:58584")
    errors = [InputError("give --x."), InputError("give --x."), lost]
    assert [end(fail(error)) for error in errors] == [1, 1, 1]
    assert capsys.readouterr().err == "error: give --x.\n"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert end(fail(lost)) == 1
    assert "another process of this training has ended" in capsys.readouterr().err


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
