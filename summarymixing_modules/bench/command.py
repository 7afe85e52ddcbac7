"""``summarymixing bench``: what mixers cost, as a table, JSON and plots."""

from __future__ import annotations

import argparse
import math
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from summarymixing_modules.bench import files, plots, report
from summarymixing_modules.bench.memory import GIB, SHARE, available_bytes
from summarymixing_modules.bench.rounds import Bench, Plan
from summarymixing_modules.bench.rows import OK, Row
from summarymixing_modules.bench.setup import BOTH, FORWARD, STEP, Setup, find_forms
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.run.run_lock import FolderInUseError, hold

RESULT = "bench.json"
INTERRUPTED = 130


def run_bench(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns 1 if nothing could be timed.

    Raises:
        InputError: a flag that means nothing, or a device that is not there.
    """
    check_flags(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    setup = make_setup(arguments)
    if arguments.compare is not None:
        files.read_bench(Path(arguments.compare))  # before hours of work
    folder = Path(arguments.output)
    try:
        with hold(folder) or nullcontext():
            return _run(arguments, setup, folder)
    except FolderInUseError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{first} Wait until it ends, or give another --output.") from None
    except KeyboardInterrupt:
        print(f"Stopped. {folder / RESULT} has what was measured; the same command goes on.")
        return INTERRUPTED


def _run(arguments: argparse.Namespace, setup: Setup, folder: Path) -> int:
    forms, plan, head = (
        find_forms(arguments.attention_type),
        make_plan(arguments, setup),
        report.header(setup),
    )
    cases = {
        "forms": [form.name for form in forms],
        "seconds": plan.seconds,
        "batches": plan.batches,
        "passes": plan.passes,
    }
    done: list[list[Row]] = []

    def save(rows: list[Row]) -> None:
        text = files.as_json(setup, head, [*done, rows], cases)
        write_atomically(folder / RESULT, text)

    known: list[Row] = []
    if not arguments.overwrite:
        known = files.interrupted_rows(folder / RESULT, setup, head, cases)
    bench = Bench(forms, setup, plan, known=_whole(known, plan.rounds), save=save)
    tqdm.write(f"{bench.runs} runs, {_in_words(bench.estimate())}: {folder / RESULT}")
    for rows in bench.groups():
        save(rows)
        done.append(rows)
        tqdm.write(_group_text(rows, setup))
        if any(row.status == OK for row in rows):
            name = f"{setup.what}_{rows[0].passes.replace(' + ', '_')}_b{rows[0].batch}.png"
            plots.plot(rows, setup, head["device_name"], folder / name)
            tqdm.write(f"Plot: {folder / name}\n")
    print(f"Result: {folder / RESULT}")
    every = [row for rows in done for row in rows]
    if arguments.compare is not None:
        print(files.compare(Path(arguments.compare), setup, head, every))
    return 0 if any(row.status == OK for row in every) else 1


def _whole(rows: list[Row], rounds: int) -> list[Row]:
    """The rows that can be gone on with: what is timed alone on a full GPU is timed at once."""
    return [row for row in rows if row.interleaved or not row.lacks(rounds)]


def _in_words(seconds: float) -> str:
    """What is to be expected, rounded up."""
    if seconds < 90:
        return f"about {math.ceil(seconds)} s"
    if seconds < 5400:
        return f"about {math.ceil(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


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
