"""Submits the script of a job once more, to go on when the job has ended; a job calls it.

    python -m summarymixing_modules.tables.resubmit FOLDER

For clusters that do not requeue: there the job is another one, and the record of its folder says
so, lest `summarymixing tables run` submit it a second time.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from summarymixing_modules.tables.record import SUBMITTED, read_record, write_record
from summarymixing_modules.tables.schema import TableError
from summarymixing_modules.tables.slurm import sbatch


def resubmit(folder: Path) -> str:
    """Submits the job of a run's folder again, after the present one, whatever becomes of that.

    Returns:
        the new job, as ``sbatch --parsable`` tells it.

    Raises:
        TableError: there is no record of a job in the folder, or sbatch refuses.
    """
    record = read_record(folder)
    if record is None:
        raise TableError(f"{folder} has no record of a job.")
    job = sbatch(folder, [f"--dependency=afterany:{os.environ['SLURM_JOB_ID']}"])
    write_record(folder, replace(record, status=SUBMITTED, job=job))
    return job


if __name__ == "__main__":
    try:
        print(f"submitted again: job {resubmit(Path(sys.argv[1]))}")
    except TableError as error:
        sys.exit(f"error: {error}")
