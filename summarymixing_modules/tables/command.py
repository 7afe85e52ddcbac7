"""``summarymixing tables``: what its subcommands do."""

from __future__ import annotations

import argparse
import shlex
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from summarymixing_modules.tables.commands import (
    LOCAL,
    SLURM,
    TORCHRUN,
    Launch,
    command,
    fingerprint,
    stage_flags,
)
from summarymixing_modules.tables.corpora import (
    DEMO,
    corpus_folders,
    make_missing_demo,
    weights_of,
)
from summarymixing_modules.tables.flags import as_arguments, parse_extra
from summarymixing_modules.tables.plan import Run, corpora_of, plan, select_rows
from summarymixing_modules.tables.read import RECIPES, load_table, table_names
from summarymixing_modules.tables.record import is_finished
from summarymixing_modules.tables.report import write_cells, write_report
from summarymixing_modules.tables.runner import run_all, train_here
from summarymixing_modules.tables.schema import Stage, Table, TableError
from summarymixing_modules.tables.slurm import (
    Site,
    after_jobs,
    check_sbatch,
    job_script,
    read_site,
    sbatch_command,
    submit,
)
from summarymixing_modules.text_tables import aligned

INTERRUPTED = 130


def run_tables(arguments: argparse.Namespace) -> int:
    """Run a subcommand; returns the exit status.

    Raises:
        TableError: see `load_table`, `select_rows`, `corpus_folders` and `run_all`.
    """
    if arguments.action == "list":
        tables = map(load_table, table_names())
        print(aligned([[t.name, f"{len(t.rows)} rows", t.title] for t in tables], right=[1]))
        return 0
    table = load_table(arguments.table)
    if arguments.action == "show":
        print(describe_table(table))
        return 0
    if arguments.action == "run":
        return _run(table, arguments)
    results = Path(arguments.results).absolute()
    write = write_report if arguments.action == "report" else write_cells
    print(write(table, results))
    return 0


def describe_table(table: Table) -> str:
    """A table for people: data, stages and flags of every row, published figures."""
    lines = [table.title, f"  {table.source}" if table.source else "", table.about, ""]
    for corpus in table.corpora.values():
        optional = " (optional)" if corpus.optional else ""
        lines.append(f"--data {corpus.name}=FOLDER{optional}: {corpus.about}")
    if table.shared:
        lines += ["", "shared stages", *map(_describe_stage, table.shared)]
    for row in table.rows:
        figures = ", ".join(f"{name} {value:g}" for name, value in row.published.items())
        lines += ["", row.name, *map(_describe_stage, row.stages)]
        lines += [f"  published: {figures}"] if figures else []
        lines += [f"  {row.note}"] if row.note else []
    return "\n".join(lines)


def _describe_stage(stage: Stage) -> str:
    if stage.recipe is None:
        return f"  {stage.name}: summarymixing bench {shlex.join(stage.bench)}"
    recipe = stage.recipe.relative_to(RECIPES) if stage.recipe.is_relative_to(RECIPES) else None
    flags = " ".join(map(shlex.quote, as_arguments(stage.flags)))
    return f"  {stage.name}: {recipe or stage.recipe} {flags}"


def _run(table: Table, arguments: argparse.Namespace) -> int:
    launch = _launch(table, arguments)
    rows, left_out = select_rows(table, arguments.rows, launch.folders)
    runs = plan(table, rows, Path(arguments.results).absolute())
    if not runs:
        raise TableError(f"there is nothing to run in {table.name}. {' '.join(left_out)}")
    for run in runs:  # all flags, before anything starts
        stage_flags(run.stage, launch)
    _check_stage_names(launch, runs)
    site = read_site(
        arguments.site,
        partition=arguments.partition,
        account=arguments.account,
        time=arguments.time,
    )
    print("\n".join(left_out), end="\n" if left_out else "")
    if arguments.dry_run:
        _print_commands(runs, launch, site)
        return 0
    if launch.launcher == SLURM:
        check_sbatch()
    if any(DEMO in corpora_of(table, row) for row in rows):
        make_missing_demo(launch.folders[DEMO])
    start = submit(launch, site) if launch.launcher == SLURM else train_here(launch)
    _end_on_sigterm()
    try:
        outcomes = run_all(runs, launch, start)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.")
        return INTERRUPTED
    bad = [label for label, outcome in outcomes.items() if not outcome.good]
    print(f"{len(outcomes) - len(bad)} of {len(outcomes)} runs are done or submitted.")
    if bad:
        print("Not done: " + ", ".join(bad))
    print(f"Figures: summarymixing tables report {arguments.table} --results {arguments.results}")
    return 1 if bad else 0


def _launch(table: Table, arguments: argparse.Namespace) -> Launch:
    gpus, nodes, launcher = arguments.gpus, arguments.nodes, arguments.launcher
    if launcher == LOCAL and (gpus or 1) != 1:
        raise TableError(f"--launcher local is one process: for --gpus {gpus} use torchrun.")
    if launcher != LOCAL and gpus is None:
        raise TableError(f"--launcher {launcher} needs --gpus N: processes on a machine.")
    if launcher in (LOCAL, TORCHRUN) and nodes != 1:
        raise TableError(
            f"--launcher {launcher} is for one machine: for --nodes {nodes} use slurm, or start "
            "torchrun on every machine as recipes/README.md says."
        )
    if nodes < 1 or (gpus or 1) < 1:
        raise TableError("--gpus and --nodes must be 1 or more.")
    if launcher != SLURM:
        for name in ("site", "partition", "account", "time"):
            if getattr(arguments, name) is not None:
                raise TableError(f"--{name} is for --launcher slurm.")
    folders = corpus_folders(table, arguments.data)
    weights = weights_of(table, folders)
    extra, forget = parse_extra(arguments.extra), arguments.forget_jobs
    return Launch(launcher, gpus or 1, nodes, folders, extra, weights, forget)


def _check_stage_names(launch: Launch, runs: Sequence[Run]) -> None:
    names = {run.stage.name for run in runs}
    for key in launch.extra:
        stage, colon, _ = key.rpartition(":")
        if colon and stage not in names:
            raise TableError(
                f"--{key}: there is no stage '{stage}' but {', '.join(sorted(names))}."
            )


def _print_commands(runs: Sequence[Run], launch: Launch, site: Site) -> None:
    """Print what would be done, to be pasted into a shell."""
    jobs: dict[str, str] = {}  # label to the shell's variable with the number of the job
    for run in runs:
        if is_finished(run, fingerprint(run, launch)):
            print(f"# {run.label} is finished and would not be run again")
            continue
        print(f"# {run.label}")
        if launch.launcher != SLURM:
            print(shlex.join(command(run, launch)))
            continue
        needed = [jobs[need.label] for need in run.needs.values() if need.label in jobs]
        jobs[run.label] = f"job_{len(jobs)}"
        print(_submission(run, job_script(run, launch, site), jobs[run.label], needed))


def _submission(run: Run, script: str, job: str, needed: Sequence[str]) -> str:
    """Shell that writes a job's script and submits it."""
    options = after_jobs([f"@{name}" for name in needed])
    *words, file = map(shlex.quote, sbatch_command(run.folder, options))
    words = [word.strip("'").replace("@", "$") for word in words]
    return (
        f"mkdir -p {shlex.quote(str(run.folder))}\ncat > {file} <<'END'\n{script}END\n"
        f"{job}=$({' '.join(words)} {file})"
    )


def _end_on_sigterm() -> None:
    """Let SIGTERM end the training, too, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
