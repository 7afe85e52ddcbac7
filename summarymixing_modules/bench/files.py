"""``bench.json``: written row by row, gone on with after a stop, compared with another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from summarymixing_modules.bench.report import crossover_text, crossovers
from summarymixing_modules.bench.rows import Row
from summarymixing_modules.bench.setup import Setup
from summarymixing_modules.errors import InputError
from summarymixing_modules.text_tables import aligned

_CASE = ("form", "d_model", "batch", "seconds", "passes")
_SETUP = ("what", "encoder", "precision", "compiled", "matched", "padding", "layers", "nhead")


def as_json(
    setup: Setup,
    head: Mapping[str, Any],
    groups: Iterable[Sequence[Row]],
    cases: Mapping[str, Any],
) -> str:
    """Everything, for programs, for ``--compare`` and for going on.

    Args:
        setup: of the bench.
        head: see ``header``.
        groups: rows of a batch size and kind of pass; the last group may not be complete.
        cases: what was asked for, see ``interrupted_rows``.
    """
    rows, found = [], []
    for group in groups:
        rows += [row.as_dict() for row in group]
        timed = [row for row in group if row.rounds]
        for form, seconds in crossovers(timed).items():
            case = {"batch": group[0].batch, "passes": group[0].passes, "form": form}
            found.append({**case, "seconds": seconds, "text": crossover_text(timed, form)})
    content = {
        "header": dict(head),
        "setup": asdict(setup),
        "cases": dict(cases),
        "rows": rows,
        "crossovers": found,
    }
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
    return f"{aligned(lines)}\n{machine}; cases {only}"


def read_bench(file: Path) -> dict[str, Any]:
    """The content of a ``bench.json``.

    Raises:
        InputError: no such file, or another one.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict) or not {"header", "setup", "rows"} <= set(found):
        raise InputError(f"{file} was not written by `summarymixing bench`.")
    return found


def interrupted_rows(
    file: Path, setup: Setup, head: Mapping[str, Any], cases: Mapping[str, Any]
) -> list[Row]:
    """The rows of a bench of the very same that has been here before; none if there was none.

    Mixers take turns, so what is added must have been begun on the same machine and by the same
    code, and by all mixers and lengths at once.

    Args:
        file: its ``bench.json``.
        setup, head, cases: of the present one.

    Raises:
        InputError: there is another bench; says what differs.
    """
    if not file.exists():
        return []
    old = read_bench(file)
    pairs = {
        **{key: (value, old["setup"].get(key)) for key, value in asdict(setup).items()},
        **{key: (value, old.get("cases", {}).get(key)) for key, value in cases.items()},
        "machine": (_machine(head), _machine(old["header"])),
        "commit": (head["git_commit"], old["header"].get("git_commit")),
    }
    changes = [f"{key}: {then}, now {now}" for key, (now, then) in pairs.items() if now != then]
    if changes:
        raise InputError(
            f"{file} is of another bench ({'; '.join(changes)}): give another --output, or "
            "--overwrite to measure anew."
        )
    return [Row.from_dict(row) for row in old["rows"]]


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
