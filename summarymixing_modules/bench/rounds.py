"""Runs the cases of ``summarymixing bench``: check, memory, then time in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from tqdm import tqdm

from summarymixing_modules.bench.cases import Batch, Subject, make_batch
from summarymixing_modules.bench.checks import check_subject, reference_name, tolerance
from summarymixing_modules.bench.measure import peak_memory, seconds_of
from summarymixing_modules.bench.memory import GIB, is_out_of_memory, predict_peak
from summarymixing_modules.bench.rows import OK, OOM, REFUSED, SKIPPED, WRONG, Row
from summarymixing_modules.bench.setup import Setup
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerForm

ESTIMATE = 4.0  # seconds of audio from which the time of all is told
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
        known: rows of a bench of the same that was interrupted; they are gone on with.
        save: called with the rows of a group whenever one of them has changed.
    """

    def __init__(
        self,
        forms: Sequence[MixerForm],
        setup: Setup,
        plan: Plan,
        progress: bool = True,
        known: Iterable[Row] = (),
        save: Callable[[list[Row]], None] = lambda rows: None,
    ) -> None:
        self.setup, self.plan = setup, plan
        self.subjects: dict[str, Subject] = {}
        self.refused: dict[str, tuple[MixerForm, str]] = {}
        for form in forms:
            try:
                self.subjects[form.name] = Subject(form, setup)
            except InputError as error:
                self.refused[form.name] = (form, str(error))
        self._known = {row.case: row for row in known}
        self._group_rows: list[Row] = []
        self._save = lambda: save(self._group_rows)
        self._bar = tqdm(total=self.runs, desc="runs", unit="run", disable=not progress)

    @property
    def runs(self) -> int:
        """Passes of all mixers at all lengths, those of checks and of what is done included."""
        groups = len(self.plan.batches) * len(self.plan.passes)
        turns = len(self.plan.seconds) * (self.plan.rounds + self.plan.warm_up + 1)
        return groups * (1 + turns) * len(self.subjects)

    def estimate(self) -> float:
        """Seconds that all of it will take about, told from short runs and growing with length.

        What grows faster (attention) takes longer; compilation is not in it.
        """
        seconds, batch = min(ESTIMATE, *self.plan.seconds), min(self.plan.batches)
        total = 0.0
        with torch.compiler.set_stance("force_eager"):
            for subject in self.subjects.values():
                inputs = make_batch(self.setup, subject.input_width, batch, seconds)
                for passes in self.plan.passes:
                    run = partial(subject.run, passes, inputs)
                    run()  # the first run takes longer
                    each = seconds_of(run, self.setup.device) / (batch * seconds)
                    rows = [row for b in self.plan.batches for row in self._rows(b, passes)]
                    mine = [row for row in rows if row.form == subject.form.name]
                    total += each * sum(map(self._audio_to_do, mine))
        return total

    def _audio_to_do(self, row: Row) -> float:
        """Seconds of audio in all the runs that a row still needs."""
        runs = row.lacks(self.plan.rounds) + (self.plan.warm_up if self._is_open(row) else 0)
        return row.batch * row.seconds * (runs + (not row.is_measured))

    def groups(self) -> Iterable[list[Row]]:
        """The rows of one batch size and kind of pass after another."""
        # Every mixer and length is compiled anew; the usual limit of 8 would end that silently.
        limits: dict[str, Any] = {
            "recompile_limit": 1 << 16,
            "accumulated_recompile_limit": 1 << 16,
        }
        with self._bar, torch._dynamo.config.patch(limits):
            for passes in self.plan.passes:
                groups = [self._rows(batch, passes) for batch in self.plan.batches]
                checks: dict[str, tuple[float, str]] = {}
                if any(self._is_open(row) for rows in groups for row in rows):
                    checks = {name: self._check(name, passes) for name in self.subjects}
                for rows in groups:
                    self._group_rows = rows
                    if any(map(self._is_open, rows)):
                        self._measure(rows, checks)
                    else:
                        self._bar.update(self.runs // (len(self.plan.passes) * len(groups)))
                    yield rows

    def _rows(self, batch: int, passes: str) -> list[Row]:
        """The rows of a group, mixer by mixer; those that cannot have the size last."""
        forms = [(subject.form, OK, "") for subject in self.subjects.values()]
        forms += [(form, REFUSED, why) for form, why in self.refused.values()]
        found = []
        for form, status, why in forms:
            for seconds in sorted(self.plan.seconds):
                options = dict(form.options)
                row = Row(form.name, form.attention_type, options, 0, 0, batch, seconds, passes)
                row.status, row.note = status, why
                found.append(self._known.get(row.case, row))
        return found

    def _is_open(self, row: Row) -> bool:
        return not row.is_measured or row.lacks(self.plan.rounds) > 0

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

    def _measure(self, rows: list[Row], checks: Mapping[str, tuple[float, str]]) -> None:
        """Memory first, then the time of what can run."""
        cases = []
        for name, subject in self.subjects.items():
            error, wrong = checks[name]
            mine = [row for row in rows if row.form == name]
            for row in mine:
                row.d_model, row.parameters = subject.width, subject.parameters
                row.error, row.reference = error, reference_name(subject)
                if wrong:
                    row.status, row.note = WRONG, wrong
            cases += self._measure_memory(subject, mine)
        self._time(cases)

    def _measure_memory(self, subject: Subject, rows: list[Row]) -> list[_Case]:
        """Peak memory of a subject at every length, the shortest first; says what cannot run."""
        known = {row.seconds: row.peak_bytes for row in rows if row.peak_bytes is not None}
        if not all(row.is_measured for row in rows):
            known |= self._pilots(subject, rows[0])
        cases = []
        for row in rows:
            self._bar.set_postfix_str(f"memory of {row.form}, {row.seconds:g} s")
            self._bar.update()
            case = _Case(subject, row, self._bar)
            cases.append(case)
            if row.is_measured:
                continue
            if self._fits(row, known):
                self._peak(case)
                if row.peak_bytes is not None:
                    known[row.seconds] = row.peak_bytes
            self._save()
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
        rounds, warm_up = self.plan.rounds, self.plan.warm_up
        ready = [case for case in cases if case.row.lacks(rounds)]
        self._bar.update((rounds + warm_up) * (len(cases) - len(ready)))
        for case in ready * warm_up:
            case()
        for done in range(min((len(case.row.rounds) for case in ready), default=0), rounds):
            for case in ready:
                if len(case.row.rounds) == done:
                    case.time()
            self._save()


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

    def time(self) -> None:
        """Runs once and notes the seconds."""
        seconds = seconds_of(self, self.subject.setup.device)
        if self.row.status == OK:
            self.row.rounds.append(seconds)

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
        self.row.rounds = []
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
