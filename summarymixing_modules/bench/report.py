"""What a bench found: the table, where a mixer becomes cheaper, JSON, and what has changed."""

from __future__ import annotations

import json
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import speechbrain
import torch

import summarymixing_modules
from summarymixing_modules.bench.memory import MIB
from summarymixing_modules.bench.rows import OK, Row
from summarymixing_modules.bench.setup import REFERENCE, Setup
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.report import git_commit

_CASE = ("form", "d_model", "batch", "seconds", "passes")
_SETUP = ("what", "encoder", "precision", "compiled", "matched", "padding", "layers", "nhead")


def header(setup: Setup) -> dict[str, Any]:
    """The machine, the versions and the command."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "git_commit": git_commit(Path(summarymixing_modules.__file__)),
        "device": setup.device,
        "device_name": device_name(setup.device),
        "threads": torch.get_num_threads(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "speechbrain": speechbrain.__version__,
            "summarymixing_modules": summarymixing_modules.__version__,
        },
    }


def device_name(device: str) -> str:
    """The GPU's or the processor's name, as far as the system tells it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(rows: Sequence[Row]) -> str:
    """The rows of one batch size and kind of pass, with aligned columns."""
    lines = [
        [
            "mixer",
            "D",
            "parameters",
            "audio",
            "median (quartiles)",
            "real-time factor",
            "peak memory",
            f"time / {REFERENCE}",
        ]
    ]
    for row in rows:
        start = [row.form, str(row.d_model), f"{row.parameters:,}", f"{row.seconds:g} s"]
        if row.status != OK:
            lines.append([*start, f"{row.status}: {row.note}"])
            continue
        low, high = row.as_dict()["quartiles_s"]
        ratio = time_ratio(rows, row.form, row.seconds)
        lines.append(
            [
                *start,
                f"{1e3 * row.median:.1f} ms ({1e3 * low:.1f}–{1e3 * high:.1f})",
                f"{row.real_time_factor:.2e}",
                "not told" if row.peak_bytes is None else f"{row.peak_bytes / MIB:,.1f} MiB",
                ("" if ratio is None else f"{ratio:.2f}") + ("" if row.interleaved else " alone"),
            ]
        )
    return _aligned(lines)


def time_ratio(
    rows: Sequence[Row], form: str, seconds: float, other: str = REFERENCE
) -> float | None:
    """Median over the rounds of a mixer's time / another's at one length; None without both."""
    pair = [
        next((r for r in rows if r.form == name and r.seconds == seconds and r.status == OK), None)
        for name in (form, other)
    ]
    if pair[0] is None or pair[1] is None:
        return None
    both = zip(pair[0].rounds, pair[1].rounds, strict=True)
    return statistics.median(a / b for a, b in both)


def crossover(rows: Sequence[Row], form: str) -> float | None:
    """Seconds of audio from which a mixer is cheaper than the reference, at all longer lengths too.

    Between two measured lengths the ratio is taken to change evenly; if the mixer is cheaper at all
    lengths, the shortest. None: at the longest common length it is not cheaper.
    """
    lengths = sorted({row.seconds for row in rows})
    known = [(s, ratio) for s in lengths if (ratio := time_ratio(rows, form, s)) is not None]
    if not known or known[-1][1] >= 1:
        return None
    later = known[-1]
    for earlier in reversed(known[:-1]):
        if earlier[1] >= 1:
            share = (earlier[1] - 1) / (earlier[1] - later[1])
            return earlier[0] + share * (later[0] - earlier[0])
        later = earlier
    return later[0]


def crossovers(rows: Sequence[Row]) -> dict[str, float | None]:
    """The crossover of every mixer that was timed, where the reference was, too."""
    timed = dict.fromkeys(row.form for row in rows if row.status == OK)
    if REFERENCE not in timed:
        return {}
    return {form: crossover(rows, form) for form in timed if form != REFERENCE}


def crossover_text(rows: Sequence[Row], form: str) -> str:
    """A crossover in words."""
    found, shortest = crossover(rows, form), min(row.seconds for row in rows)
    if found is None:
        return "none in range"
    return f"at all lengths from {found:g} s" if found == shortest else f"from {found:.3g} s"


def growth(rows: Sequence[Row]) -> dict[str, float]:
    """Real-time factor at the longest length / at the shortest, paired by rounds."""
    found = {}
    for form in dict.fromkeys(row.form for row in rows):
        timed = sorted(
            (r for r in rows if r.form == form and r.status == OK), key=lambda row: row.seconds
        )
        if len(timed) > 1:
            first, last = timed[0], timed[-1]
            both = zip(last.rounds, first.rounds, strict=True)
            audio = first.audio_seconds / last.audio_seconds
            found[form] = audio * statistics.median(a / b for a, b in both)
    return found


def summary(rows: Sequence[Row]) -> str:
    """Crossovers and growth of every mixer that was timed; empty where neither can be told."""
    crossed, grown = crossovers(rows), growth(rows)
    forms = [form for form in dict.fromkeys(row.form for row in rows) if form in {*crossed, *grown}]
    if not forms:
        return ""
    lines = [["mixer", f"cheaper than {REFERENCE}", "real-time factor, longest / shortest"]]
    for form in forms:
        cheaper = crossover_text(rows, form) if form in crossed else "-"
        lengths = [row.seconds for row in rows if row.form == form and row.status == OK]
        ends = f"{max(lengths):g} s / {min(lengths):g} s"
        lines.append([form, cheaper, f"{grown[form]:.2f} ({ends})" if form in grown else "-"])
    return _aligned(lines)


def as_json(setup: Setup, head: Mapping[str, Any], groups: Iterable[Sequence[Row]]) -> str:
    """Everything, for programs and for ``--compare``."""
    rows, found = [], []
    for group in groups:
        rows += [row.as_dict() for row in group]
        for form, seconds in crossovers(group).items():
            case = {"batch": group[0].batch, "passes": group[0].passes, "form": form}
            found.append({**case, "seconds": seconds, "text": crossover_text(group, form)})
    content = {"header": dict(head), "setup": asdict(setup), "rows": rows, "crossovers": found}
    return json.dumps(_strict(content), indent=1, allow_nan=False) + "\n"


def compare(old_file: Path, setup: Setup, head: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Time and memory now / then, case by case.

    Args:
        old_file: ``bench.json`` of another run.
        setup: of this run.
        head: of this run.
        rows: of this run.

    Raises:
        InputError: there is no such file, or it is not of a bench, or of one with another setup.
    """
    old = read_bench(old_file)
    for key in _SETUP:
        now, then = getattr(setup, key), old["setup"].get(key)
        if now != then:
            raise InputError(
                f"--compare {old_file} was made with {key}={then}, and this is {key}={now}: "
                "compare runs with the same settings."
            )
    lines = [[*_CASE, "time, now / then", "memory, now / then"]]
    found = {tuple(row[key] for key in _CASE): row for row in old["rows"] if row["rounds"]}
    now_rows = {tuple(getattr(row, key) for key in _CASE): row for row in rows if row.rounds}
    for case in now_rows.keys() & found.keys():
        row, then = now_rows[case], found[case]
        time = f"{row.median / then['median_s']:.3f}"
        memory = "not told"
        if row.peak_bytes is not None and then["peak_bytes"] is not None:
            memory = f"{row.peak_bytes / then['peak_bytes']:.3f}"
        lines.append([*(str(part) for part in case), time, memory])
    lines[1:] = sorted(lines[1:], key=lambda line: (line[0], line[4], int(line[2]), float(line[3])))
    only = f"only now: {len(now_rows.keys() - found.keys())}, only then: "
    only += str(len(found.keys() - now_rows.keys()))
    machine = "same machine" if _machine(old["header"]) == _machine(head) else "ANOTHER MACHINE"
    return f"{_aligned(lines)}\n{machine}; cases {only}"


def read_bench(file: Path) -> dict[str, Any]:
    """The content of a ``bench.json``.

    Raises:
        InputError: no such file, or another one.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--compare {file} cannot be read: {error}") from error
    if not isinstance(found, dict) or not {"header", "setup", "rows"} <= set(found):
        raise InputError(f"--compare {file} was not written by `summarymixing bench`.")
    return found


def _machine(head: Mapping[str, Any]) -> list[Any]:
    return [head["device_name"], head["threads"], head["versions"]["torch"]]


def _strict(value: Any) -> Any:
    """Infinite errors as text, which strict JSON can hold."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")) or value != value:
        return str(value)
    return value


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines with columns two spaces apart; a row may end early with a long text."""
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    shorter = [row for row in rows if len(row) < len(rows[0])]
    for index in range(len(widths)):
        cells = [len(row[index]) for row in shorter if index < len(row) - 1]
        widths[index] = max([widths[index], *cells])
    lines = []
    for row in rows:
        cells_text = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join(cells_text).rstrip())
    return "\n".join(lines)
