"""Runs the cases of ``summarymixing bench``: check, memory, then time in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from tqdm import tqdm

from summarymixing_modules.bench.cases import Batch, Subject, make_batch
from summarymixing_modules.bench.checks import check_subject, reference_name, tolerance
from summarymixing_modules.bench.measure import peak_memory, time_interleaved
from summarymixing_modules.bench.memory import GIB, is_out_of_memory, predict_peak
from summarymixing_modules.bench.rows import OK, OOM, REFUSED, SKIPPED, WRONG, Row
from summarymixing_modules.bench.setup import Form, Setup
from summarymixing_modules.errors import InputError

PILOTS = (1.0, 2.0, 4.0)  # seconds; short lengths from which the memory of longer ones is told


@dataclass(frozen=True)
class Plan:
    """How much is timed.

    Attributes:
        seconds: lengths.
        batches: numbers of utterances.
        passes: see bench/cases.py.
        rounds: counted runs of each case.
        warm_up: runs before those.
        max_bytes: of main memory that a case may take; None on a GPU, which says itself.
    """

    seconds: Sequence[float]
    batches: Sequence[int]
    passes: Sequence[str]
    rounds: int = 7
    warm_up: int = 1
    max_bytes: float | None = None


class Bench:
    """Every mixer at every length.

    Args:
        forms: the mixers.
        setup: what all cases share.
        plan: how much is timed.
        progress: show a bar.
    """

    def __init__(
        self, forms: Sequence[Form], setup: Setup, plan: Plan, progress: bool = True
    ) -> None:
        self.setup, self.plan = setup, plan
        self.subjects: dict[str, Subject] = {}
        self.refused: dict[str, tuple[Form, str]] = {}
        for form in forms:
            try:
                self.subjects[form.name] = Subject(form, setup)
            except InputError as error:
                self.refused[form.name] = (form, str(error))
        groups = len(plan.batches) * len(plan.passes)
        turns = len(plan.seconds) * (plan.rounds + plan.warm_up + 1)
        total = groups * (1 + turns) * len(self.subjects)
        self._bar = tqdm(total=total, desc="runs", unit="run", disable=not progress)

    def groups(self) -> Iterable[list[Row]]:
        """The rows of one batch size and kind of pass after another."""
        # Every mixer and length is compiled anew; the usual limit of 8 would end that silently.
        limits: dict[str, Any] = {
            "recompile_limit": 1 << 16,
            "accumulated_recompile_limit": 1 << 16,
        }
        with self._bar, torch._dynamo.config.patch(limits):
            for passes in self.plan.passes:
                checks = {name: self._check(name, passes) for name in self.subjects}
                for batch in self.plan.batches:
                    yield self._group(batch, passes, checks)

    def _check(self, name: str, passes: str) -> tuple[float, str]:
        """Relative error of a subject, and why it is not timed."""
        self._bar.set_postfix_str(f"checking {name}")
        self._bar.update(len(self.plan.batches))
        try:
            error = check_subject(self.subjects[name], passes)
        except TorchDynamoException as failure:
            return float("inf"), f"does not compile here: {str(failure).splitlines()[0]}"
        if error < tolerance(self.setup):
            return error, ""
        against = reference_name(self.subjects[name])
        return error, f"differs from its reference ({against}) by {error:.1e}: not timed"

    def _group(self, batch: int, passes: str, checks: dict[str, tuple[float, str]]) -> list[Row]:
        cases = []
        for name, subject in self.subjects.items():
            error, wrong = checks[name]
            rows = [
                self._row(subject.form, batch, seconds, passes) for seconds in self.plan.seconds
            ]
            for row in rows:
                row.d_model, row.parameters = subject.width, subject.parameters
                row.error, row.reference = error, reference_name(subject)
                if wrong:
                    row.status, row.note = WRONG, wrong
            cases += self._measure_memory(subject, rows)
        self._time(cases)
        refused = [
            self._row(form, batch, seconds, passes, REFUSED, why)
            for form, why in self.refused.values()
            for seconds in self.plan.seconds
        ]
        return [case.row for case in cases] + refused

    def _row(
        self, form: Form, batch: int, seconds: float, passes: str, status: str = OK, note: str = ""
    ) -> Row:
        options = dict(form.options)
        return Row(
            form.name, form.attention_type, options, 0, 0, batch, seconds, passes, status, note
        )

    def _measure_memory(self, subject: Subject, rows: list[Row]) -> list[_Case]:
        """Peak memory of a subject at every length, the shortest first; says what cannot run."""
        known = self._pilots(subject, rows[0]) if rows[0].status == OK else {}
        cases = []
        for row in sorted(rows, key=lambda each: each.seconds):
            self._bar.set_postfix_str(f"memory of {row.form}, {row.seconds:g} s")
            self._bar.update()
            case = _Case(subject, row, self._bar)
            cases.append(case)
            if row.status == OK and self._fits(row, known):
                self._peak(case)
                if row.peak_bytes is not None:
                    known[row.seconds] = row.peak_bytes
        return cases

    def _pilots(self, subject: Subject, row: Row) -> dict[float, int]:
        """Peak memory at short lengths, where a limit is to be kept."""
        if self.plan.max_bytes is None:
            return {}
        shorter = [seconds for seconds in PILOTS if seconds < min(self.plan.seconds)]
        known = {}
        with torch.compiler.set_stance("force_eager"):  # compiled code hides what it allocates
            for seconds in shorter if len(shorter) > 1 else PILOTS:
                inputs = make_batch(self.setup, subject.input_width, row.batch, seconds)
                known[seconds] = _peak_bytes(subject, row.passes, inputs)
        return known

    def _fits(self, row: Row, known: dict[float, int]) -> bool:
        """Whether a case keeps the limit of memory; says so in its row if not."""
        limit = self.plan.max_bytes
        shorter = {seconds: peak for seconds, peak in known.items() if seconds < row.seconds}
        if limit is None or len(shorter) < 2:
            return True
        wanted = predict_peak(shorter, row.seconds)
        if wanted <= limit:
            return True
        row.status = SKIPPED
        row.note = (
            f"would take about {wanted / GIB:.1f} GiB of memory, more than the "
            f"{limit / GIB:.1f} GiB of --max_memory_gb"
        )
        return False

    def _peak(self, case: _Case) -> None:
        """Measures peak memory; if the GPU is full, once more with the other mixers off it."""
        try:
            case.measure_peak()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            case.fail(error)
        others = [s for s in self.subjects.values() if s is not case.subject]
        if case.row.status != OOM or not self.setup.on_cuda or not others:
            return
        for other in others:
            other.move("cpu")
        torch.cuda.empty_cache()
        case.row.status, case.row.note, case.row.interleaved = OK, "", False
        try:
            case.measure_peak()
            self._time([case])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            case.fail(error)
        finally:
            torch.cuda.empty_cache()
            for other in others:
                other.move(self.setup.device)

    def _time(self, cases: list[_Case]) -> None:
        """Times cases that can run, in turn, and that were not timed yet."""
        cases = [case for case in cases if not case.row.rounds]
        ready = {f"{c.row.form} {c.row.seconds}": c for c in cases if c.row.status == OK}
        turns = self.plan.rounds + self.plan.warm_up
        self._bar.update(turns * (len(cases) - len(ready)))
        runs: dict[str, Callable[[], object]] = dict(ready)
        timings = time_interleaved(runs, self.plan.rounds, self.plan.warm_up, self.setup.device)
        for name, case in ready.items():
            if case.row.status == OK:
                case.row.rounds = list(timings[name].seconds)


class _Case:
    """A subject at one length; does nothing once it is out of memory."""

    def __init__(self, subject: Subject, row: Row, bar: Any) -> None:
        self.subject, self.row, self._bar = subject, row, bar
        self._inputs: Batch | None = None

    def __call__(self) -> None:
        self._bar.set_postfix_str(f"{self.row.form}, {self.row.seconds:g} s", refresh=False)
        if self.row.status == OK:
            try:
                self.subject.run(self.row.passes, self._batch())
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.fail(error)
        self._bar.update()

    def measure_peak(self) -> None:
        """Runs once and notes the memory; the first run of this length, it also warms up."""
        inputs, row = self._batch(), self.row
        row.padding = inputs.padded_share
        row.audio_seconds = row.batch * row.seconds * (1 - row.padding)
        if not self._is_hidden():
            row.peak_bytes = _peak_bytes(self.subject, row.passes, inputs)

    def fail(self, error: RuntimeError) -> None:
        """Notes that memory ran out, and lets go of what there is."""
        self.row.status, self.row.note = OOM, str(error).splitlines()[0]
        self._inputs = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _batch(self) -> Batch:
        if self._inputs is None:
            row, subject = self.row, self.subject
            self._inputs = make_batch(subject.setup, subject.input_width, row.batch, row.seconds)
        return self._inputs

    def _is_hidden(self) -> bool:
        """Compiled code on the CPU allocates where nobody can count."""
        return self.subject.setup.compiled and not self.subject.setup.on_cuda


def _peak_bytes(subject: Subject, passes: str, inputs: Batch) -> int:
    extra = peak_memory(partial(subject.run, passes, inputs), subject.setup.device)
    return subject.held_bytes + inputs.x_BTF.untyped_storage().nbytes() + extra
