"""``summarymixing bench``: what mixers cost, as a table, JSON and plots."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from tqdm import tqdm

from summarymixing_modules.bench import plots, report
from summarymixing_modules.bench.memory import GIB, SHARE, available_bytes
from summarymixing_modules.bench.rounds import Bench, Plan
from summarymixing_modules.bench.rows import OK, Row
from summarymixing_modules.bench.setup import BOTH, FORWARD, STEP, Setup, find_forms
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError

RESULT = "bench.json"


def run_bench(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns 1 if nothing could be timed.

    Raises:
        InputError: a flag that means nothing, or a device that is not there.
    """
    check_flags(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    setup = make_setup(arguments)
    old = None if arguments.compare is None else Path(arguments.compare)
    if old is not None:
        report.read_bench(old)  # before hours of work
    folder, head = Path(arguments.output), report.header(setup)
    bench = Bench(find_forms(arguments.attention_type), setup, make_plan(arguments, setup))
    groups: list[list[Row]] = []
    for rows in bench.groups():
        groups.append(rows)
        # After every group: what was measured survives an interruption.
        write_atomically(folder / RESULT, report.as_json(setup, head, groups))
        tqdm.write(_group_text(rows, setup))
        if any(row.status == OK for row in rows):
            file = (
                folder / f"{setup.what}_{rows[0].passes.replace(' + ', '_')}_b{rows[0].batch}.png"
            )
            plots.plot(rows, setup, head["device_name"], file)
            tqdm.write(f"Plot: {file}\n")
    print(f"Result: {folder / RESULT}")
    every = [row for rows in groups for row in rows]
    if old is not None:
        print(report.compare(old, setup, head, every))
    return 0 if any(row.status == OK for row in every) else 1


def check_flags(arguments: argparse.Namespace) -> None:
    """Refuses flags that mean nothing.

    Raises:
        InputError: names the flag and the remedy.
    """
    positive = ["seconds", "batch", "rounds", "threads", "num_encoder_layers", "max_memory_gb"]
    for name in positive:
        given = getattr(arguments, name)
        values = given if isinstance(given, list) else [given]
        if any(value is not None and not value > 0 for value in values):
            raise InputError(f"--{name}={given} must be above 0.")
    for name in ("seconds", "batch"):
        given = getattr(arguments, name)
        if len(set(given)) < len(given):
            raise InputError(f"--{name} names a value twice: {given}.")
    if arguments.warm_up < 0:
        raise InputError(f"--warm_up={arguments.warm_up} must be at least 0.")
    if not 0 <= arguments.padding < 0.5:
        raise InputError(f"--padding={arguments.padding} must be at least 0 and below 0.5.")
    if arguments.padding and min(arguments.batch) < 2:
        raise InputError("--padding needs batches of at least 2: one utterance has none.")
    if not 0 <= arguments.dropout < 1:
        raise InputError(f"--dropout={arguments.dropout} must be at least 0 and below 1.")
    if arguments.what == "steps" and arguments.passes is not None:
        raise InputError("--passes means nothing to --what steps, which times whole steps.")


def make_setup(arguments: argparse.Namespace) -> Setup:
    """What all cases share.

    Raises:
        InputError: there is no such device, or ``--max_memory_gb`` for a GPU.
    """
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device={device} cannot be used: {reason}") from error
    setup = Setup(
        arguments.what,
        arguments.encoder,
        arguments.d_model,
        arguments.nhead,
        arguments.num_encoder_layers,
        arguments.matched,
        arguments.precision,
        arguments.compile,
        device,
        arguments.dropout,
        arguments.padding,
    )
    if setup.on_cuda and arguments.max_memory_gb is not None:
        raise InputError("--max_memory_gb is for the CPU: a GPU says itself when it is full.")
    return setup


def make_plan(arguments: argparse.Namespace, setup: Setup) -> Plan:
    """How much is timed."""
    passes = {"forward": [FORWARD], "both": [FORWARD, BOTH]}[arguments.passes or "both"]
    limit = None
    if not setup.on_cuda:
        given = arguments.max_memory_gb
        limit = SHARE * available_bytes() if given is None else given * GIB
    return Plan(
        sorted(arguments.seconds),
        arguments.batch,
        [STEP] if setup.what == "steps" else passes,
        arguments.rounds,
        arguments.warm_up,
        limit,
    )


def _group_text(rows: list[Row], setup: Setup) -> str:
    first = rows[0]
    share = next((row.padding for row in rows if row.status == OK), math.nan)
    title = (
        f"{setup.what}, {setup.encoder}, {first.passes}, batch of {first.batch}, {share:.0%} "
        f"padding, {setup.precision}{', compiled' if setup.compiled else ''}, {setup.device}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    return "\n".join([title, "", report.table(rows), "", report.summary(rows)])
