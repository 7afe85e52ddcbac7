"""Runs as slurm jobs that survive the time limit: requeued or submitted again, and gone on with."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import did_you_mean
from summarymixing_modules.tables.commands import Launch, command, fingerprint, starter
from summarymixing_modules.tables.plan import Run
from summarymixing_modules.tables.record import (
    BENCH_DONE,
    JOB_SCRIPT,
    LOG,
    SUBMITTED,
    Record,
    write_record,
)
from summarymixing_modules.tables.runner import Outcome, Start, Tick
from summarymixing_modules.tables.schema import TableError
from summarymixing_modules.tables.slurm_queue import job_number
from summarymixing_modules.training.run.run_lock import FolderLock

SIGNAL_SECONDS = 180  # before the time limit: enough to put the job back into the queue

_SCRIPT = """\
#!/bin/bash
{directives}

{setup}export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}"

# Shortly before the time limit: back into the queue, or, where the cluster does not allow that,
# a new job. A training goes on from its last checkpoint.
again() {{
    echo "the time of job $SLURM_JOB_ID is nearly up"
    scontrol requeue "$SLURM_JOB_ID" || {resubmit}
}}
trap again USR1

{start} &
wait $!{then}
"""
_RENDEZVOUS = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
{srun} --kill-on-bad-exit=1 {torchrun} \\
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node={gpus} \\
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head:$port" \\
    {training}"""

#: Since slurm 22.05 a step has one core unless it asks for more, whatever the job has.
_SRUN = 'srun --cpus-per-task="$SLURM_CPUS_PER_TASK"'


@dataclass(frozen=True)
class Site:
    """What a cluster wants to be told.

    Attributes:
        partition: sbatch's, likewise account and time; None leaves it out.
        account: see there.
        time: limit of a job, such as ``24:00:00``; it is requeued until the training is done.
        cpus_per_gpu: for the workers that load data, and one for the training.
        setup: lines of shell before the training, such as ``module load cuda``.
        options: more options of sbatch, such as ``--constraint=a100``.
    """

    partition: str | None = None
    account: str | None = None
    time: str | None = None
    cpus_per_gpu: int = 6
    setup: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def read_site(file: str | None, **given: str | None) -> Site:
    """A site from a YAML file with the fields of `Site`, and options that win over it.

    Raises:
        TableError: the file is missing, or has a field that means nothing; names it.
    """
    content: Any = {}
    if file is not None:
        try:
            content = YAML(typ="safe").load(Path(file).read_text(encoding="utf-8"))
        except (OSError, YAMLError) as error:
            raise TableError(f"--site {file}: {error}") from None
    if not isinstance(content, dict):
        raise TableError(f"--site {file} should hold `name: value` lines.")
    known = [entry.name for entry in fields(Site)]
    for key, value in content.items():
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise TableError(f"--site {file}: '{key}' is none of {', '.join(known)}.{hint}")
        if key in ("setup", "options"):
            lines = value if isinstance(value, list) else [value]
            content[key] = tuple(str(line) for line in lines)
    return Site(**{**content, **{key: value for key, value in given.items() if value is not None}})


def job_script(run: Run, launch: Launch, site: Site) -> str:
    """The script of a run for sbatch."""
    launch = launch.of(run.stage)
    words, start = command(run, launch), starter(launch)
    text = f"{_SRUN} {shlex.join(words)}"
    if len(start) > 1:
        parts = {"torchrun": shlex.join(start), "training": shlex.join(words[len(start) :])}
        text = _RENDEZVOUS.format(**parts, srun=_SRUN, gpus=launch.gpus)
    done = shlex.quote(str(run.folder / BENCH_DONE))
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in _directives(run, launch, site)),
        setup="".join(f"{line}\n" for line in site.setup),
        resubmit=shlex.join([sys.executable, "-m", f"{__package__}.resubmit", str(run.folder)]),
        start=text,
        then=f" && touch {done}" if run.stage.recipe is None else "",
    )


def _directives(run: Run, launch: Launch, site: Site) -> list[str]:
    named = {name: getattr(site, name) for name in ("partition", "account", "time")}
    return [
        f"--job-name={run.row}:{run.stage.name}",
        f"--output={_as_pattern(run.folder / LOG)}",
        "--open-mode=append",
        f"--nodes={launch.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={launch.gpus}",
        f"--cpus-per-task={site.cpus_per_gpu * launch.gpus}",
        "--requeue",
        f"--signal=B:USR1@{SIGNAL_SECONDS}",
        *(f"--{name}={value}" for name, value in named.items() if value is not None),
        *site.options,
    ]


def _as_pattern(path: Path) -> str:
    """A path as sbatch reads one in an option of a script: ``%`` and spaces mean themselves."""
    return shlex.quote(str(path).replace("%", "%%"))


def after_jobs(jobs: Sequence[str]) -> list[str]:
    """The options of sbatch that let a job wait for others to end well."""
    return [f"--dependency=afterok:{':'.join(jobs)}", "--kill-on-invalid-dep=yes"] if jobs else []


def sbatch_command(folder: Path, options: Sequence[str]) -> list[str]:
    """The command that submits the job script in the folder of a run."""
    return ["sbatch", "--parsable", *options, str(folder / JOB_SCRIPT)]


def sbatch(folder: Path, options: Sequence[str]) -> str:
    """Submits the job script in the folder of a run; returns ``number`` or ``number;cluster``.

    Raises:
        TableError: sbatch refuses; says why.
    """
    arguments = sbatch_command(folder, options)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TableError(f"{shlex.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def check_sbatch() -> None:
    """Refuse to go on where there is no slurm.

    Raises:
        TableError: there is no sbatch on PATH.
    """
    if shutil.which("sbatch") is None:
        raise TableError(
            "--launcher slurm needs sbatch, which is not on PATH: start this on the cluster's "
            "login node, see what would be submitted with --dry-run, or use --launcher torchrun."
        )


def submit(launch: Launch, site: Site) -> Start:
    """Hands runs to slurm, each after the jobs of what it needs."""

    def start(run: Run, lock: FolderLock, needed: Sequence[Outcome], tick: Tick) -> Outcome:
        script = job_script(run, launch, site)
        write_atomically(run.folder / JOB_SCRIPT, script)
        jobs = [outcome.detail for outcome in needed if outcome.status == SUBMITTED]
        job = sbatch(run.folder, after_jobs(jobs))
        text = shlex.join(sbatch_command(run.folder, after_jobs(jobs)))
        write_record(run.folder, Record(fingerprint(run, launch), text, SUBMITTED, job=job))
        return Outcome(SUBMITTED, job_number(job))

    return start
