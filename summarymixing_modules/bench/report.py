"""What a bench found, for people: the table, and where a mixer becomes cheaper."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from summarymixing_modules.bench.measure import Timing
from summarymixing_modules.bench.memory import MIB
from summarymixing_modules.bench.rows import OK, Row
from summarymixing_modules.bench.setup import REFERENCE, Setup
from summarymixing_modules.text_tables import aligned
from summarymixing_modules.training.run.report import device_name, provenance


def header(setup: Setup) -> dict[str, Any]:
    """The machine, the versions and the command."""
    made = provenance()
    return {
        **made,
        "device": setup.device,
        "device_name": device_name(setup.device),
        "threads": torch.get_num_threads(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "versions": {**made["versions"], "cuda": torch.version.cuda},
    }


def table(rows: Sequence[Row]) -> str:
    """The rows of one batch size and kind of pass, with aligned columns."""
    head = ["mixer", "D", "parameters", "audio", "median (quartiles)", "real-time factor"]
    lines = [[*head, "peak memory", f"time / {REFERENCE}"]]
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
    return aligned(lines)


def time_ratios(
    rows: Sequence[Row], form: str, seconds: float, other: str = REFERENCE
) -> list[float]:
    """A mixer's time / another's at one length, round by round; empty without both."""
    pair = [
        next((r for r in rows if r.form == name and r.seconds == seconds and r.status == OK), None)
        for name in (form, other)
    ]
    if pair[0] is None or pair[1] is None:
        return []
    both = zip(pair[0].rounds, pair[1].rounds, strict=True)
    return [a / b for a, b in both]


def time_ratio(rows: Sequence[Row], form: str, seconds: float) -> float | None:
    """Median over the rounds of a mixer's time / the reference's; None without both."""
    ratios = time_ratios(rows, form, seconds)
    return statistics.median(ratios) if ratios else None


def crossover(rows: Sequence[Row], form: str) -> float | None:
    """Seconds of audio from which a mixer is cheaper than the reference, at all longer lengths too.

    It is cheaper at a length where three quarters of the rounds say so. Where three quarters say
    the opposite at the length before, the ratio is taken to change evenly between the two; else
    nothing is told between them. None: at the longest common length it is not cheaper.
    """
    lengths = sorted({row.seconds for row in rows})
    known = [(s, Timing(tuple(r))) for s in lengths if (r := time_ratios(rows, form, s))]
    found = None
    for length, ratios in reversed(known):
        low, high = ratios.quartiles
        if high < 1:
            found = (length, ratios.median)
            continue
        if found is None or low <= 1:
            break
        share = (ratios.median - 1) / (ratios.median - found[1])
        return length + share * (found[0] - length)
    return None if found is None else found[0]


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
        longest = max(row.seconds for row in rows if time_ratios(rows, form, row.seconds))
        low, high = Timing(tuple(time_ratios(rows, form, longest))).quartiles
        return "none in range" if low > 1 else "not told by these rounds"
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
    return aligned(lines)
