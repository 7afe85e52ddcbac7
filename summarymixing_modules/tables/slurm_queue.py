"""What slurm has in its queue."""

from __future__ import annotations

import shutil
import subprocess
import time

from summarymixing_modules.tables.schema import TableError

ATTEMPTS, PAUSE_SECONDS = 3, 10.0  # of a controller that is busy, or is being restarted
_UNKNOWN_JOB = "invalid job id"  # slurm's words for a job that it has forgotten


class NoAnswerError(TableError):
    """Slurm does not say whether it has a job: what was submitted must not be submitted again."""


def job_number(job: str) -> str:
    """The number of ``number;cluster``, as ``sbatch --parsable`` tells a job."""
    return job.partition(";")[0]


def is_queued(job: str) -> bool:
    """Whether slurm still has a job, waiting or running.

    Args:
        job: as ``sbatch --parsable`` tells it.

    Raises:
        NoAnswerError: there is no squeue here, or it fails otherwise than for want of this job.
    """
    why = "squeue is not on PATH"
    for attempt in range(ATTEMPTS if shutil.which("squeue") else 0):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        done = subprocess.run(_squeue(job), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            # With --clusters a line says which.
            lines = [line for line in done.stdout.split("\n") if not line.startswith("CLUSTER:")]
            return any(line.strip() for line in lines)
        if _UNKNOWN_JOB in done.stderr.lower():
            return False
        why = f"squeue says: {done.stderr.strip() or f'exit status {done.returncode}'}"
    raise NoAnswerError(
        f"slurm does not tell whether job {job} is still there ({why}). Try again when it does. If "
        "you know that it has ended: --forget-jobs."
    )


def _squeue(job: str) -> list[str]:
    number, _, cluster = job.partition(";")
    where = [f"--clusters={cluster}"] if cluster else []
    return ["squeue", "--noheader", f"--jobs={number}", "--format=%T", *where]
