"""What a step takes: audio, padding, frames and seconds, in the history, the log and the report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.epoch_loop import EpochCounter

from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.clock import StepClock
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer
from summarymixing_modules.training.run.history import PER_STEP, TrainHistory


class Slow(torch.autograd.Function):
    """The identity; its backward pass takes 20 ms."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return grad


class Brain(SafeBrain):
    """A layer on audio; the forward pass takes 10 ms, a step of the optimizer 5 ms."""

    frame_unit = "pieces"

    def batch_frames(self, batch: Any) -> float:
        return 2.0 * len(batch.sig.data)

    def compute_forward(self, batch: Any, stage: sb.Stage) -> torch.Tensor:
        time.sleep(0.01)
        return Slow.apply(self.modules.layer(batch.sig.data))

    def compute_objectives(self, predictions: Any, batch: Any, stage: sb.Stage) -> torch.Tensor:
        return predictions.square().mean()

    def on_optimizer_step(self) -> None:
        time.sleep(0.005)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        if stage == sb.Stage.TRAIN:
            self.end_epoch(epoch or 0, {"loss": stage_loss})


def make(folder: Path, epochs: int = 1, accumulation: int = 2, **hparams: Any) -> Brain:
    torch.manual_seed(0)
    layer = torch.nn.Linear(20, 3)
    hparams |= {"output_folder": folder, "sample_rate": 10, "curve_interval": 2}
    return Brain(
        {"layer": layer},
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        hparams | {"epoch_counter": EpochCounter(epochs)},
        {"device": "cpu", "noprogressbar": True, "grad_accumulation_factor": accumulation},
        AtomicCheckpointer(folder / "save", {"layer": layer}),
    )


def fit(brain: Brain) -> None:
    """Twelve batches of 2 s and 1.5 s of audio, after 2 ms of waiting: six steps an epoch."""

    def collate(rows: list[int]) -> PaddedBatch:
        time.sleep(0.002)
        return PaddedBatch(
            [{"id": str(row), "sig": torch.ones(20 if row % 2 else 15)} for row in rows]
        )

    brain.fit(
        brain.hparams.epoch_counter,
        list(range(24)),
        train_loader_kwargs={"batch_size": 2, "collate_fn": collate, "shuffle": False},
    )


def test_every_point_has_the_means_of_a_step(tmp_path: Path) -> None:
    brain = make(tmp_path)
    fit(brain)
    per_step = brain.history.per_step
    assert set(per_step) == set(PER_STEP) and brain.history.curves["step"] == [2, 4, 6]
    assert per_step["audio_hours"] == pytest.approx([7 / 3600] * 3)
    assert per_step["padding_share"] == pytest.approx([1 / 8] * 3)
    assert per_step["frames"] == pytest.approx([8] * 3)
    for name, least in (("data", 4), ("forward", 20), ("backward", 40), ("optimizer", 5)):
        for seconds in per_step[f"{name}_seconds"]:
            assert least / 1000 <= seconds < least / 1000 + 0.5, name
    totals = brain.history.totals
    parts = totals["forward_seconds"] + totals["backward_seconds"]
    assert totals["compute_seconds"] == pytest.approx(parts)


def test_the_report_has_the_means_of_the_run(tmp_path: Path) -> None:
    brain = make(tmp_path)
    fit(brain)
    result = brain.finish({})
    means = result["per_step"]
    assert means["audio_hours"] * 6 == pytest.approx(result["audio_hours_seen"])
    assert means["padding_share"] == pytest.approx(result["padding_share"])
    assert means["frames"] == pytest.approx(8)
    assert means["backward_seconds"] >= 0.04 and means["optimizer_seconds"] >= 0.005
    compute = means["forward_seconds"] + means["backward_seconds"]
    assert compute * 6 == pytest.approx(result["seconds"]["compute"])


def test_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    brain = make(tmp_path, log_interval=4)
    with caplog.at_level("INFO", logger="summarymixing_modules.training.steps"):
        fit(brain)
    (line,) = [record.message for record in caplog.records if "step 4: " in record.message]
    assert "step 2: " not in caplog.text and "step 6: " not in caplog.text
    loss = sum(brain.history.curves["loss"][:2]) / 2
    assert f"step 4: loss {loss:.4g}, lr 1.0e-01, 7.0 s of audio, 12 % padding, 8 pieces" in line
    for part in ("data", "forward", "backward", "optimizer"):
        assert f" s {part}" in line


def test_without_a_setting_every_tenth_point_is_told(tmp_path: Path) -> None:
    assert make(tmp_path).log_interval == 20


@pytest.mark.parametrize("interval", [0, 3])
def test_an_interval_between_the_points_is_refused(tmp_path: Path, interval: int) -> None:
    with pytest.raises(ValueError, match=f"log_interval={interval} must be a multiple of curve"):
        make(tmp_path, log_interval=interval)


def test_hours_are_told_as_hours_and_what_is_unknown_is_left_out() -> None:
    history = TrainHistory(interval=1)
    history.totals |= {"audio_seconds": 6408.0, "padded_seconds": 6606.0, "forward_seconds": 0.31}
    history.add_loss(5.21)
    history.add_step(1, 8e-4, 1.0)
    assert history.describe_last(1, "frames") == (
        "step 1: loss 5.21, lr 8.0e-04, 1.78 h of audio, 3 % padding, 0.00 s data, 0.31 s forward,"
        " 0.00 s backward, 0.00 s optimizer"
    )


def test_ranks_are_summed_at_the_points_only() -> None:
    calls = []

    def four_ranks(values: list[float]) -> list[float]:
        calls.append(values)
        return [4 * value for value in values]

    history = TrainHistory(interval=3, sum_over_ranks=four_ranks)
    for step in range(1, 8):
        history.totals["audio_seconds"] += 9
        history.totals["padded_seconds"] += 10
        history.totals["frames"] += 5
        history.totals["forward_seconds"] += 2
        history.add_loss(1.0)
        history.add_step(step, 0.1, 1.0)
    assert calls == [[27, 30, 15], [27, 30, 15]]
    assert history.per_step["audio_hours"] == pytest.approx([36 / 3600] * 2)
    assert history.per_step["frames"] == [20, 20]
    assert history.per_step["padding_share"] == pytest.approx([0.1] * 2)
    assert history.per_step["forward_seconds"] == [2, 2], "of this rank"
    assert history.step_means()["audio_hours"] == pytest.approx(36 / 3600)


def test_a_resumed_run_goes_on_between_two_points(tmp_path: Path) -> None:
    def step(history: TrainHistory, number: int) -> None:
        history.totals["audio_seconds"] += number
        history.add_loss(1.0)
        history.add_step(number, 0.1, 1.0)

    whole, first = TrainHistory(4), TrainHistory(4)
    for number in range(1, 9):
        step(whole, number)
    for number in range(1, 7):
        step(first, number)
    first.save(tmp_path / "history")
    resumed = TrainHistory(4)
    resumed.load(tmp_path / "history")
    for number in (7, 8):
        step(resumed, number)
    assert resumed.per_step["audio_hours"] == whole.per_step["audio_hours"]


class FakeEvent:
    """An event of a GPU that works for a second on everything it is told."""

    done = 0
    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        FakeEvent.made += 1
        self.number = FakeEvent.made

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.number <= FakeEvent.done

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.query() and end.query(), "read before it was over"
        return 1000.0 * (end.number - self.number)


def test_on_a_gpu_laps_count_when_they_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic alone: no GPU is asked."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "made", 0)
    monkeypatch.setattr(FakeEvent, "done", 0)
    history = TrainHistory()
    clock = StepClock(history, "cuda:0")  # event 1
    for part in ("data", "forward", "backward", "optimizer"):  # events 2 to 5
        clock.lap(part)
    assert history.train_seconds == 0
    FakeEvent.done = 4
    clock.settle()
    assert history.totals["optimizer_seconds"] == 0 and history.totals["compute_seconds"] == 2
    clock.restart()  # event 6
    FakeEvent.done = 99
    clock.lap("data")  # event 7
    assert history.totals["optimizer_seconds"] == 1 and history.totals["data_seconds"] == 2
