"""The command line of ``summarymixing tables``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

USAGE = "%(prog)s TABLE [OPTION ...] [-- --KEY=VALUE ...]   (KEYs of the recipes, or STAGE:KEY)"
DEFAULT_RESULTS = "results/tables"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands list, show, run, collect and report."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the tables")
    show = actions.add_parser("show", help="the rows of a table: commands and published figures")
    collect = actions.add_parser("collect", help="write the figures so far to cells.json")
    report = actions.add_parser("report", help="write the figures so far to report.md, with plots")
    run = actions.add_parser("run", help="make what a table lacks", usage=USAGE)
    for action in (show, run, collect, report):
        action.add_argument("table", metavar="TABLE", help="a table of the list, or a YAML file")
    for action in (run, collect, report):
        action.add_argument(
            "--results", default=DEFAULT_RESULTS, help=f"folder (default: {DEFAULT_RESULTS})"
        )
    _add_run_arguments(run)


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add(
        "--rows",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="rows, such as 'asr/*'",
    )
    add("--launcher", choices=("local", "torchrun", "slurm"), default="local")
    add("--gpus", type=int, help="processes on a machine, one for each GPU (local: 1)")
    add("--nodes", type=int, default=1, help="machines (slurm)")
    add("--dry-run", action="store_true", help="print the commands and do nothing")
    add(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="CORPUS=FOLDER",
        help="where the data is; `show` names it",
    )
    add(
        "--forget-jobs",
        action="store_true",
        help="jobs that were submitted have ended, whatever slurm says or does not say",
    )
    add("--site", metavar="FILE", help="slurm: YAML with partition, account, time, setup, …")
    add("--partition", help="slurm: of the jobs")
    add("--account", help="slurm: of the jobs")
    add("--time", help="slurm: limit of a job, such as 24:00:00")


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the flags for recipes, after ``--``, from a command line of ``tables run``.

    argparse would need them right behind TABLE.
    """
    given = list(argv)
    if given[:2] != ["tables", "run"] or "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]
