"""`summarymixing bench` checks, times, reports and refuses; figures of known rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from summarymixing_modules.bench import checks, rounds
from summarymixing_modules.bench.cases import Subject, make_batch
from summarymixing_modules.bench.memory import available_bytes, predict_peak
from summarymixing_modules.bench.report import crossover, growth, summary, table
from summarymixing_modules.bench.rounds import Bench, Plan
from summarymixing_modules.bench.rows import OK, OOM, SKIPPED, WRONG, Row
from summarymixing_modules.bench.setup import BOTH, FORWARD, Setup, find_forms
from summarymixing_modules.cli import main
from summarymixing_modules.training.run.run_lock import FolderLock

SMALL = ["--d_model=16", "--nhead=2", "--num_encoder_layers=1", "--rounds=2", "--batch", "2"]
TWO = ["--attention_type=SummaryMixing-lite", "--attention_type=RoPEMHA"]
TINY = Setup(d_model=16, nhead=2, layers=1)


def bench(folder: Path, *flags: str) -> int:
    return main(["bench", *SMALL, *flags, f"--output={folder}", "--device=cpu"])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "bench.json").read_text())["rows"]
    return rows


def known_row(form: str, seconds: float, took: list[float]) -> Row:
    row = Row(form, form, {}, 16, 1, 1, seconds, FORWARD, audio_seconds=seconds)
    row.rounds = took
    return row


def test_mixers_both_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path, *TWO, "--what=mixers", "--seconds", "1", "2", "--padding=0.2") == 0
    out, content = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert "cheaper than RoPEMHA" in out and "real-time factor" in out and "20% padding" in out
    assert content["header"]["device_name"] and content["header"]["versions"]["torch"]
    rows = content["rows"]
    assert [r["passes"] for r in rows] == [FORWARD] * 4 + [BOTH] * 4
    for row in rows:
        assert row["status"] == OK and len(row["rounds"]) == 2 and row["error"] < 1e-4
        low, high = row["quartiles_s"]
        assert 0 < low <= row["median_s"] <= high
        assert row["real_time_factor"] == pytest.approx(row["median_s"] / row["audio_seconds"])
        assert row["audio_seconds"] == pytest.approx(1.6 * row["seconds"])
    peaks = {(r["form"], r["seconds"], r["passes"]): r["peak_bytes"] for r in rows}
    for form in ("SummaryMixing-lite", "RoPEMHA"):
        assert peaks[form, 1, FORWARD] < peaks[form, 2, FORWARD] < peaks[form, 2, BOTH]
    assert {case["form"] for case in content["crossovers"]} == {"SummaryMixing-lite"}
    for name in ("mixers_forward_b2.png", "mixers_forward_backward_b2.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("what", ["encoders", "steps"])
@pytest.mark.parametrize("encoder", ["conformer", "branchformer"])
def test_encoders_and_steps(tmp_path: Path, what: str, encoder: str) -> None:
    flags = [f"--what={what}", f"--encoder={encoder}", "--seconds", "1", "--matched"]
    flags += ["--passes=forward"] if what == "encoders" else []
    assert bench(tmp_path, *TWO, "--attention_type=cnnonly", *flags) == 0
    rows = rows_of(tmp_path)
    assert [row["status"] for row in rows] == [OK] * 3
    counts = [row["parameters"] for row in rows]
    assert max(counts) < 1.35 * min(counts)  # widths are multiples of 8


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_compared_with_float32(precision: str) -> None:
    for form in find_forms(["SummaryMixing-lite", "RoPEMHA"]):
        subject = Subject(form, Setup(what="encoders", d_model=16, nhead=2, layers=1))
        half = Subject(form, Setup(what="mixers", d_model=16, nhead=2, precision=precision))
        assert checks.check_subject(subject, BOTH) < 1e-4
        assert 1e-5 < checks.check_subject(half, FORWARD) < checks.TOLERANCES[precision]


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--what=mixers", "--seconds", "1", "--passes=forward", *TWO]
    bench(tmp_path / "old", *flags)
    old = tmp_path / "old" / "bench.json"
    content = json.loads(old.read_text())
    content["rows"][0]["median_s"] *= 1e6
    old.write_text(json.dumps(content))
    capsys.readouterr()
    assert bench(tmp_path / "new", *flags[:-1], f"--compare={old}") == 0
    out = capsys.readouterr().out
    assert "same machine; cases only now: 0, only then: 1" in out and " 0.000 " in out
    assert bench(tmp_path / "bf16", *flags, "--precision=bf16", f"--compare={old}") == 1
    assert "was made with precision=fp32" in capsys.readouterr().err
    old.write_text("{}")
    assert bench(tmp_path / "new", *flags, f"--compare={old}") == 1
    assert "was not written by" in capsys.readouterr().err


def test_an_interruption_keeps_what_was_measured_and_the_next_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TWO, "--what=mixers", "--seconds", "1", "2", "--passes=forward", "--rounds=3"]
    time, measure, left = rounds._Case.time, rounds._Case.measure_peak, [6]
    measured: list[float] = []

    def stop(self: rounds._Case) -> None:  # in the second round of four cases
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        time(self)

    def count(self: rounds._Case) -> None:
        measured.append(self.row.seconds)
        measure(self)

    monkeypatch.setattr(rounds._Case, "time", stop)
    monkeypatch.setattr(rounds._Case, "measure_peak", count)
    assert bench(tmp_path, *flags) == 130
    out = capsys.readouterr()
    assert "runs, about " in out.out + out.err and "the same command goes on" in out.out
    first = rows_of(tmp_path)
    assert [len(row["rounds"]) for row in first] == [1] * 4 and len(measured) == 4
    assert bench(tmp_path, *flags[:-1], "--rounds=3", "--nhead=4") == 1
    assert "is of another bench (nhead: 2, now 4)" in capsys.readouterr().err
    assert bench(tmp_path, *flags) == 0
    rows = rows_of(tmp_path)
    assert [row["rounds"][:1] for row in rows] == [row["rounds"] for row in first]
    assert [len(row["rounds"]) for row in rows] == [3] * 4 and len(measured) == 4
    assert bench(tmp_path, *flags) == 0 and rows_of(tmp_path) == rows  # nothing is left to do
    assert bench(tmp_path, *flags, "--overwrite") == 0 and len(measured) == 8
    assert not {row["rounds"][0] for row in rows} & {r["rounds"][0] for r in rows_of(tmp_path)}


def test_two_benches_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FolderLock(tmp_path) as lock:
        assert lock.acquire()
        assert bench(tmp_path, *TWO, "--seconds", "1") == 1
    assert "in use by process" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def test_the_estimate_counts_what_is_still_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "seconds_of", lambda run, device: 0.4)  # of 4 s of audio
    forms, plan = find_forms(["SummaryMixing-lite"]), Plan([10.0, 20.0], [1], [FORWARD], 3, 1)
    assert Bench(forms, TINY, plan, False).estimate() == pytest.approx(0.1 * 30 * 5)
    done = known_row("SummaryMixing-lite", 10.0, [1.0, 1.0])
    left = Bench(forms, TINY, plan, False, known=[done]).estimate()
    assert left == pytest.approx(0.1 * (20 * 5 + 10 * 2))


def test_what_is_wrong_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Subject.call

    def spoiled(self: Subject, *args: Any) -> Tensor:
        y = right(self, *args)
        return y + 1 if self.form.name == "RoPEMHA" and args[2] is not None else y

    monkeypatch.setattr(Subject, "call", spoiled)
    bench(tmp_path, *TWO, "--seconds", "1", "--passes=forward")
    statuses = {row["form"]: row["status"] for row in rows_of(tmp_path)}
    assert statuses == {"SummaryMixing-lite": OK, "RoPEMHA": WRONG}
    assert "not timed" in capsys.readouterr().out


def test_memory_limit_leaves_out_what_is_long(tmp_path: Path) -> None:
    flags = ["--what=mixers", "--passes=forward", "--seconds", "10", "2000"]
    assert bench(tmp_path, *TWO, *flags, "--max_memory_gb=0.02") == 0
    rows = rows_of(tmp_path)
    assert {(r["seconds"], r["status"]) for r in rows} == {(10.0, OK), (2000.0, SKIPPED)}
    assert all("--max_memory_gb" in r["note"] for r in rows if r["status"] == SKIPPED)


def test_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Subject.run

    def small(self: Subject, passes: str, batch: Any) -> None:
        if batch.x_BTF.shape[1] > 30 and self.form.name == "RoPEMHA":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")
        run(self, passes, batch)

    monkeypatch.setattr(Subject, "run", small)
    forms = find_forms(["SummaryMixing-lite", "RoPEMHA"])
    plan = Plan([1.0, 2.0], [1], [FORWARD], rounds=2, warm_up=0)
    (rows,) = Bench(forms, TINY, plan, progress=False).groups()
    found = {(row.form, row.seconds): row for row in rows}
    bad = found["RoPEMHA", 2.0]
    assert bad.status == OOM and bad.note.endswith("1 GiB") and not bad.rounds
    assert all(len(row.rounds) == 2 for row in rows if row is not bad)
    assert "out of memory: CUDA out of memory" in table(rows)


def test_a_full_gpu_is_tried_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others leave the device, the case is timed alone and says so, and they come back."""
    forms = find_forms(["SummaryMixing-lite", "RoPEMHA"])
    bench_ = Bench(forms, TINY, Plan([1.0], [1], [FORWARD], 2, 0), progress=False)
    subject, other = bench_.subjects.values()
    moved: list[str] = []
    monkeypatch.setattr(other, "move", moved.append)
    run, attempts = subject.run, []

    def full(passes: str, batch: Any) -> None:
        attempts.append(passes)
        if not moved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        run(passes, batch)

    monkeypatch.setattr(subject, "run", full)
    monkeypatch.setattr(Setup, "on_cuda", True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    row = Row("SummaryMixing-lite", "SummaryMixing", {}, 16, 1, 1, 1.0, FORWARD)
    monkeypatch.setattr(rounds, "peak_memory", lambda run, device: (run(), 7)[1])
    bench_._peak(rounds._Case(subject, row, bench_._bar))
    assert row.status == OK and not row.interleaved and len(row.rounds) == 2
    assert moved == ["cpu", "cpu"] and len(attempts) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds", "0"], "--seconds=[0.0] must be above 0"),
        (["--seconds", "1", "1"], "names a value twice"),
        (["--batch", "1", "--padding=0.1"], "--padding needs batches of at least 2"),
        (["--padding=0.5"], "--padding=0.5 must be"),
        (["--what=steps", "--passes=both"], "--passes means nothing to --what steps"),
        (["--attention_type=SummaryMixin"], "did you mean 'SummaryMixing'"),
        (["--device=tpu"], "--device=tpu cannot be used"),
        (["--compare=nothing.json"], "nothing.json cannot be read"),
        (["--warm_up=-1"], "--warm_up=-1 must be at least 0"),
    ],
)
def test_bad_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_a_size_that_a_mixer_cannot_have_is_a_row(tmp_path: Path) -> None:
    flags = ["--what=mixers", "--seconds", "1", "--passes=forward", "--attention_type=cnnonly"]
    assert main(["bench", *flags, f"--output={tmp_path}", "--device=cpu", "--batch", "1"]) == 1
    (row,) = rows_of(tmp_path)
    assert row["status"] == "refused" and "--what encoders" in row["note"]


def test_crossover_growth_and_ratios_of_known_rows() -> None:
    rows = [known_row("RoPEMHA", s, [s * s] * 3) for s in (10.0, 20.0, 30.0)]
    rows += [known_row("linear", s, [15 * s] * 3) for s in (10.0, 20.0, 30.0)]
    rows += [known_row("slow", s, [s**3] * 3) for s in (10.0, 20.0, 30.0)]
    assert crossover(rows, "linear") == pytest.approx(10 + 10 * 0.5 / 0.75)  # ratios 1.5, 0.75
    assert crossover(rows, "slow") is None and "none in range" in summary(rows)
    assert growth(rows) == pytest.approx({"RoPEMHA": 3, "linear": 1, "slow": 9})
    assert crossover([row for row in rows if row.seconds > 10], "linear") == 20
    # At 20 s rounds disagree: cheaper from 30 s on, and nothing is told between.
    rows += [known_row("noisy", 10.0, [120] * 3), known_row("noisy", 20.0, [300, 399, 600])]
    rows += [known_row("noisy", 30.0, [500] * 3)]
    rows += [known_row("even", s, [0.9 * s * s, s * s, 1.1 * s * s]) for s in (10.0, 20.0, 30.0)]
    assert crossover(rows, "noisy") == 30
    assert crossover(rows, "even") is None and "not told by these rounds" in summary(rows)
    assert "0.75" in table(rows)


def test_predicted_memory_of_known_growth() -> None:
    def peak(seconds: float) -> int:
        return round(1e6 + 2e5 * seconds + 300 * seconds**2)

    known = {seconds: peak(seconds) for seconds in (1.0, 2.0, 4.0)}
    assert predict_peak(known, 60.0) == pytest.approx(peak(60), rel=1e-4)
    assert predict_peak({1.0: 10, 2.0: 20}, 10.0) == 100
    assert 0 < available_bytes() < 2**50


def test_batches_have_the_padding_asked_for() -> None:
    batch = make_batch(Setup(what="steps", padding=0.25), 80, 5, 4.0)
    assert batch.x_BTF.shape == (5, 400, 80) and batch.padded_share == pytest.approx(0.25)
    assert batch.padding_BT is not None and batch.lengths_B.tolist() == [400, 350, 300, 250, 200]
    assert make_batch(TINY, 640, 5, 4.0).padding_BT is None


def test_compiled_equals_eager_and_memory_is_not_told() -> None:
    (form,) = find_forms(["SummaryMixing-lite"])
    subject = Subject(form, Setup(what="mixers", d_model=16, nhead=2, compiled=True))
    subject._called = torch.compile(subject.call, backend="aot_eager", dynamic=False)
    assert checks.check_subject(subject, BOTH) < 1e-4
    row = Row(form.name, form.attention_type, {}, 16, 1, 1, 1.0, FORWARD)
    bench_ = Bench([], TINY, Plan([1.0], [1], [FORWARD]), progress=False)
    rounds._Case(subject, row, bench_._bar).measure_peak()
    assert row.peak_bytes is None and row.audio_seconds == 1.0
