"""Running a table of fakes: once each, failures, kills, locks, launchers."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from summarymixing_modules.cli import main
from summarymixing_modules.tables.record import read_record
from summarymixing_modules.training.run.run_lock import FolderLock


def arguments(table: Path, *more: str) -> list[str]:
    folder = table.parent
    data = ["--data", f"speech={folder / 'speech'}"]
    return ["tables", "run", str(table), "--results", str(folder / "results"), *data, *more]


def fork(run: Callable[[], int]) -> BaseProcess:
    """Runs something in a process of its own, and of its own group; a fork imports nothing anew."""

    def child() -> None:
        os.setsid()
        os._exit(run())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def steps(table: Path, run: str) -> list[str]:
    file = table.parent / "results" / "fakes" / run / "steps"
    return file.read_text().splitlines() if file.exists() else []


def test_runs_what_it_can_and_tells_what_failed(
    fake_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(fake_table)) == 1
    out = capsys.readouterr().out
    assert "Left out, for want of --data more=FOLDER: 1 stage(s)" in out
    assert "good · train: finished after" in out and "[6/6]" in out
    assert "bad · train: failed: exit status 3" in out and "    Traceback: boom" in out
    assert str(fake_table.parent / "results/fakes/bad/train/table_run.log") in out
    assert "bad · after: blocked: it needs train" in out
    assert "Not done: bad · train, bad · after" in out
    assert len(steps(fake_table, "shared/words")) == 2  # once, though four rows need it
    record = read_record(fake_table.parent / "results/fakes/bad/train")
    assert record is not None and (record.status, record.exit_status) == ("failed", 3)


def test_finished_runs_are_not_run_twice(
    fake_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(fake_table, "--rows", "good", "far/*")
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("finished before") == 4
    assert len(steps(fake_table, "good/train")) == 2
    # Flags that decide nothing make no other command.
    assert main([*command, "--", "--num_workers=3"]) == 1  # the fake has no such key
    assert "--num_workers is neither" in capsys.readouterr().err
    assert main([*command, "--", "--noprogressbar"]) == 0


def test_another_command_is_refused_before_anything_starts(
    fake_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(fake_table, "--rows", "far/7")) == 0
    assert main(arguments(fake_table, "--rows", "good", "far/7", "--", "--train:wer=9")) == 1
    error = capsys.readouterr().err
    assert "was made by another command (--wer: 7, now 9)" in error and "move the folder" in error
    assert not (fake_table.parent / "results/fakes/good").exists()
    foreign = fake_table.parent / "results/fakes/good/train"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").write_text("do not lose me")
    assert main(arguments(fake_table, "--rows", "good")) == 1
    assert "holds thesis.tex that no table run has made" in capsys.readouterr().err


def test_a_damaged_result_is_made_again(fake_table: Path) -> None:
    command = arguments(fake_table, "--rows", "far/6")
    assert main(command) == 0
    result = fake_table.parent / "results/fakes/far/6/train/result.json"
    result.write_text('{"metrics": ')
    assert main(command) == 0
    assert json.loads(result.read_text())["metrics"] == {"test-clean_wer": 6.0}


@pytest.mark.parametrize("whole_group", [True, False], ids=["all", "runner"])
def test_goes_on_after_sigkill(
    fake_table: Path, whole_group: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that outlived its runner is waited for, one that did not is gone on with."""
    command = arguments(fake_table, "--rows", "good", "--", "--steps=12", "--pace=0.15")
    runner = fork(lambda: main(command))
    deadline = time.monotonic() + 120
    while len(steps(fake_table, "shared/words")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert runner.pid is not None
    if whole_group:
        os.killpg(runner.pid, signal.SIGKILL)
    else:
        runner.kill()
    runner.join()
    assert 3 <= len(steps(fake_table, "shared/words")) < 12
    assert main(command) == 0
    done = steps(fake_table, "shared/words")
    assert len(done) == 12 and len(set(done)) == (2 if whole_group else 1)
    log = (fake_table.parent / "results/fakes/shared/words/table_run.log").read_text()
    assert log.count("from step") == (2 if whole_group else 1)
    assert ("finished before" in capsys.readouterr().out) is not whole_group


def test_a_run_elsewhere_is_put_off(fake_table: Path, tmp_path: Path) -> None:
    """While another process holds a folder, the others are done; then it is, too."""
    folder = fake_table.parent / "results/fakes/far/6/train"
    other = fake_table.parent / "results/fakes/far/7/train/result.json"
    held = tmp_path / "held"

    def hold() -> int:
        with FolderLock(folder) as lock:
            assert lock.acquire()
            held.touch()
            while not other.exists():
                time.sleep(0.05)
        return 0

    holder = fork(hold)
    while not held.exists():
        time.sleep(0.05)
    assert FolderLock(folder).acquire() is False
    assert main(arguments(fake_table, "--rows", "far/*")) == 0
    holder.join()
    assert len(steps(fake_table, "far/6/train")) == 2


def test_sigterm_ends_the_training_too(fake_table: Path) -> None:
    command = arguments(fake_table, "--rows", "good", "--", "--steps=2000", "--pace=0.1")
    runner = fork(lambda: main(command))
    while not steps(fake_table, "shared/words"):
        time.sleep(0.05)
    runner.terminate()
    runner.join(60)
    assert runner.exitcode == 130
    count = len(steps(fake_table, "shared/words"))
    time.sleep(0.5)
    assert len(steps(fake_table, "shared/words")) == count


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "god"], "no row of fakes matches 'god'. Did you mean good"),
        (["--rows", "more"], "row 'more' needs --data more=FOLDER: more speech"),
        (["--rows", "bad", "mor*"], "row 'more' needs --data more=FOLDER: more speech"),
        (["--data", "speach=."], "Did you mean speech"),
        (["--data", "speech"], "write NAME=FOLDER"),
        (["--data", "more=nowhere"], "there is no"),
        (["--gpus", "2"], "use torchrun"),
        (["--launcher", "torchrun"], "needs --gpus N"),
        (["--launcher", "torchrun", "--gpus", "2", "--nodes", "2"], "for --nodes 2 use slurm"),
        (["--launcher", "slurm", "--gpus", "2"], "--dry-run"),
        (["--partition", "gpu"], "--partition is for --launcher slurm"),
        (["--", "steps=3"], "Flags after -- look like --key=value"),
        (["--", "--step=3"], "Did you mean --steps"),
        (["--", "--tran:steps=3"], "there is no stage 'tran' but"),
    ],
)
def test_bad_command_lines(
    more: list[str],
    message: str,
    fake_table: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(fake_table.parent))  # no sbatch
    assert main(arguments(fake_table, *more)) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert not (fake_table.parent / "results").exists()
