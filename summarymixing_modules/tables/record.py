"""What is known about a run from its folder: how it was made, and whether it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.tables.plan import Run
from summarymixing_modules.tables.schema import TableError
from summarymixing_modules.training.run.run_lock import LOCK

RECORD = "table_run.json"
RESULT = "result.json"
BENCH_RESULT = "bench.json"  # written again and again while `summarymixing bench` works,
BENCH_DONE = ".bench_done"  # which has worked to its end when this is there, too
LOG = "table_run.log"
JOB_SCRIPT = "job.sh"

RUNNING, FAILED, FINISHED, SUBMITTED = "running", "failed", "finished", "submitted"


@dataclass(frozen=True)
class Record:
    """What was done in a folder, kept there as ``table_run.json``.

    Attributes:
        fingerprint: what decides the result, see `commands.fingerprint`.
        command: as it was started.
        status: ``running``, ``failed``, ``finished`` or ``submitted``, as far as the runner knew.
        exit_status: of the command.
        job: slurm's number of it.
    """

    fingerprint: Mapping[str, Any]
    command: str
    status: str = RUNNING
    exit_status: int | None = None
    job: str | None = field(default=None)


def write_record(folder: Path, record: Record) -> None:
    """Keep a record in its folder."""
    write_atomically(folder / RECORD, json.dumps(asdict(record), indent=2) + "\n")


def read_record(folder: Path) -> Record | None:
    """The record of a folder; None if there is none.

    Raises:
        TableError: the file is something else.
    """
    file = folder / RECORD
    try:
        return Record(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise TableError(
            f"{file} is no record of this program ({error}): move {folder} away."
        ) from None


def result_file(run: Run) -> Path:
    """Where the figures of a run are."""
    return run.folder / (BENCH_RESULT if run.stage.recipe is None else RESULT)


def read_result(run: Run) -> dict[str, Any] | None:
    """The content of a run's `result_file`; None if it has not written a whole one."""
    if run.stage.recipe is None and not (run.folder / BENCH_DONE).exists():
        return None
    try:
        result = json.loads(result_file(run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def is_finished(run: Run, fingerprint: Mapping[str, Any]) -> bool:
    """Whether a run's folder holds the result of this very command.

    Raises:
        TableError: it holds another command's work, or something else; says what differs, and what
            to do.
    """
    folder = run.folder
    record = read_record(folder)
    if record is None:
        foreign = sorted(p.name for p in folder.glob("*") if p.name != LOCK)
        if foreign:
            raise TableError(
                f"{folder} holds {', '.join(foreign[:3])} that no table run has made: move it "
                "away, or give another --results."
            )
        return False
    if record.fingerprint != fingerprint:
        raise TableError(
            f"{folder} was made by another command ({describe_change(record, fingerprint)}): go on "
            "with that one, or move the folder away, or give another --results. It was: "
            f"{record.command}"
        )
    return read_result(run) is not None


def describe_change(record: Record, fingerprint: Mapping[str, Any]) -> str:
    """What differs between a record and a command, in a few words."""
    found = []
    for key, now in fingerprint.items():
        before = record.fingerprint.get(key)
        if isinstance(now, Mapping) and isinstance(before, Mapping):
            for name in sorted({*now, *before}):
                if now.get(name) != before.get(name):
                    name_text = f"--{name}" if key == "flags" else f"{key} {name}"
                    found.append(
                        f"{name_text}: {_told(before.get(name))}, now {_told(now.get(name))}"
                    )
        elif now != before:
            found.append(f"{key}: {_told(before)}, now {_told(now)}")
    return "; ".join(found)


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)
