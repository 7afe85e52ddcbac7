"""What slurm has in its queue."""

from __future__ import annotations

import shutil
import subprocess


def is_queued(job: str) -> bool:
    """Whether slurm still has a job, waiting or running."""
    if shutil.which("squeue") is None:
        return False
    listed = subprocess.run(
        ["squeue", "--noheader", "--jobs", job, "--format=%T"],
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.returncode == 0 and bool(listed.stdout.strip())
