"""Makes what a table lacks, run by run, beside other processes that do the same."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tqdm import tqdm

from summarymixing_modules.tables.commands import Launch, command, fingerprint
from summarymixing_modules.tables.plan import Run
from summarymixing_modules.tables.record import (
    BENCH_DONE,
    FAILED,
    FINISHED,
    LOG,
    SUBMITTED,
    Record,
    is_finished,
    read_record,
    read_result,
    result_file,
    write_record,
)
from summarymixing_modules.tables.slurm_queue import NoAnswerError, is_queued, job_number
from summarymixing_modules.training.run.run_lock import FolderLock

BLOCKED, UNKNOWN = "blocked", "unknown"
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 60  # for a training to end when it is told to
LAST_LINES = 15
SHOWN_CHARACTERS = 60  # of the newest line of a log


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: ``finished``, ``failed``, ``submitted``, ``blocked`` (what it needs has failed) or
            ``unknown`` (it was submitted, and slurm does not answer).
        detail: more, for people; of a submitted run, slurm's number of the job.
        made_now: False if it was there already.
    """

    status: str
    detail: str = ""
    made_now: bool = True

    @property
    def good(self) -> bool:
        """Whether what needs the run can go on."""
        return self.status in (FINISHED, SUBMITTED)


#: Called now and then with what a run is at.
Tick = Callable[[str], None]
#: Does a run under its lock, given the outcomes of what it needs.
Start = Callable[[Run, FolderLock, Sequence[Outcome], Tick], Outcome]


def run_all(runs: Sequence[Run], launch: Launch, start: Start) -> dict[str, Outcome]:
    """Do every run that is not done, what is needed first; a failure stops only what needs it.

    A run that another process is at is put off, and waited for at the end.

    Args:
        runs: from `plan.plan`.
        launch: how.
        start: does one run.

    Returns:
        The outcome of each run by its label, in the order in which they ended.

    Raises:
        TableError: before anything is started: a folder holds something else.
    """
    for run in runs:
        is_finished(run, fingerprint(run, launch))
    outcomes: dict[str, Outcome] = {}
    open_runs = list(runs)
    with tqdm(total=len(runs), unit="run", disable=None) as bar:
        while open_runs:
            wait = True  # unless this round gets anywhere
            for run in list(open_runs):
                needed = [outcomes.get(need.label) for need in run.needs.values()]
                if None in needed:
                    continue
                outcome = _attempt(run, launch, start, [n for n in needed if n], bar)
                if outcome is not None:
                    outcomes[run.label] = outcome
                    open_runs.remove(run)
                    wait = False
                    bar.update()
                    tqdm.write(f"[{len(outcomes)}/{len(runs)}] {run.label}: {describe(outcome)}")
            if wait and open_runs:
                bar.set_description("waiting for another process")
                time.sleep(POLL_SECONDS)
    return outcomes


def describe(outcome: Outcome) -> str:
    """An outcome in words."""
    if outcome.status == FINISHED:
        return f"finished {outcome.detail}" if outcome.made_now else "finished before"
    before = "" if outcome.made_now else " before"
    return f"{outcome.status}{before}: {outcome.detail}"


def _attempt(
    run: Run, launch: Launch, start: Start, needed: Sequence[Outcome], bar: tqdm
) -> Outcome | None:
    """Do a run if it is free; None if another process is at it."""
    if not all(outcome.good for outcome in needed):
        failed = [
            name for (name, _), o in zip(run.needs.items(), needed, strict=True) if not o.good
        ]
        return Outcome(BLOCKED, f"it needs {', '.join(failed)}")
    with FolderLock(run.folder) as lock:
        if not lock.acquire():
            return _as_job(run, launch)  # which has the lock, too, when it trains
        if is_finished(run, fingerprint(run, launch)):
            return Outcome(FINISHED, made_now=False)
        if (queued := _as_job(run, launch)) is not None:
            return queued
        bar.set_description(run.label)
        return start(run, lock, needed, bar.set_postfix_str)


def _as_job(run: Run, launch: Launch) -> Outcome | None:
    """What slurm says about the job of a run; None if it has none, or no longer."""
    record = read_record(run.folder)
    if record is None or record.job is None or launch.forget_jobs:
        return None
    try:
        queued = is_queued(record.job)
    except NoAnswerError as error:
        return Outcome(UNKNOWN, str(error))
    return Outcome(SUBMITTED, job_number(record.job), made_now=False) if queued else None


def train_here(launch: Launch) -> Start:
    """Runs the command of a run on this machine and waits for it."""

    def start(run: Run, lock: FolderLock, needed: Sequence[Outcome], tick: Tick) -> Outcome:
        arguments = command(run, launch)
        record = Record(fingerprint(run, launch), shlex.join(arguments))
        write_record(run.folder, record)
        log = run.folder / LOG
        tqdm.write(f"{datetime.now():%H:%M:%S} {run.label}: log in {log}")
        began = time.monotonic()
        status = _execute(arguments, log, lock, tick)
        if status == 0 and run.stage.recipe is None:
            (run.folder / BENCH_DONE).touch()
        done = status == 0 and read_result(run) is not None
        write_record(
            run.folder,
            Record(record.fingerprint, record.command, FINISHED if done else FAILED, status),
        )
        if done:
            elapsed = timedelta(seconds=round(time.monotonic() - began))
            return Outcome(FINISHED, f"after {elapsed}")
        why = (
            f"exit status {status}"
            if status
            else f"it ended without a whole {result_file(run).name}"
        )
        return Outcome(FAILED, f"{why}; the log, {log}, ends with\n{last_lines(log)}")

    return start


def _execute(arguments: Sequence[str], log: Path, lock: FolderLock, tick: Tick) -> int:
    """Run a command with its output in a log; ends it when this process is to end."""
    began = time.monotonic()
    with log.open("ab") as stream:
        stream.write(f"\n$ {shlex.join(arguments)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            arguments,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.descriptor],
            env=os.environ | lock.environment(),
        )
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            newest = last_lines(log, 1).strip()[:SHOWN_CHARACTERS]
            tick(f"{timedelta(seconds=round(time.monotonic() - began))} {newest}")
        return process.returncode
    except BaseException:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def last_lines(log: Path, count: int = LAST_LINES) -> str:
    """The end of a log, progress bars as they last stood."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 20_000))
        text = stream.read().decode(errors="replace")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join([f"    {line}" for line in lines if line][-count:])
