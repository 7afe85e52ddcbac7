"""A bad batch never reaches the weights, the optimizer or the moving statistics."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedData
from speechbrain.nnet.schedulers import (
    LinearScheduler,
    LinearWarmupScheduler,
    NoamScheduler,
    TriStageLRSchedule,
)
from speechbrain.processing.features import InputNormalization

from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.guard import NonFiniteTrainingError, is_empty


class Batch:
    """Two utterances of a number each, and what is wrong with them."""

    def __init__(self, number: int, fault: str | None = None) -> None:
        self.id = [f"utt-{number}a", f"utt-{number}b"]
        self.x_BTD = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(number))
        self.fault = fault
        self.is_empty = fault == "empty"


class Brain(SafeBrain):
    """Two layers with batch and input normalization."""

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> torch.Tensor:
        assert not batch.is_empty, "an empty batch went forward"
        x_BTD = self.modules.normalize(batch.x_BTD * (math.nan if batch.fault == "input" else 1))
        y_BDT = self.modules.norm(self.modules.first(x_BTD).transpose(1, 2))
        return self.modules.second(y_BDT.mean(dim=2))

    def compute_objectives(
        self, predictions: torch.Tensor, batch: Batch, stage: sb.Stage
    ) -> torch.Tensor:
        loss = predictions.square().mean()
        if batch.fault in ("loss", "infinite"):
            return loss * (math.nan if batch.fault == "loss" else math.inf)
        return loss + (predictions.sum() * 0).sqrt() if batch.fault == "gradient" else loss


def make(folder: Path | None = None, accumulation: int = 1, **hparams: Any) -> Brain:
    """A Brain with its optimizer, ready for `fit_batch`."""
    torch.manual_seed(0)
    modules = {
        "first": torch.nn.Linear(3, 4),
        "norm": torch.nn.BatchNorm1d(4),
        "second": torch.nn.Linear(4, 1),
        "normalize": InputNormalization(),
    }
    hparams |= {"output_folder": folder} if folder is not None else {}
    options = {"device": "cpu", "grad_accumulation_factor": accumulation}
    optimizer = hparams.pop("opt_class", lambda parameters: torch.optim.AdamW(parameters, lr=0.1))
    brain = Brain(modules, optimizer, hparams, options)
    brain.modules.train()
    brain.on_fit_start()
    brain.epoch = 1
    return brain


def fit(brain: Brain, *faults: str | None, first: int = 1) -> list[float]:
    """Train on a batch for each fault (None: a good batch); returns the losses."""
    losses = []
    for number, fault in enumerate(faults, start=first):
        brain.step += 1
        losses.append(float(brain.fit_batch(Batch(number, fault))))
    return losses


def state(brain: Brain) -> dict[str, Any]:
    """All that training changes."""
    normalize = brain.modules.normalize
    return copy.deepcopy(
        {
            "modules": brain.modules.state_dict(),
            "optimizer": brain.optimizer.state_dict(),
            "normalize": [normalize.count, normalize.glob_mean, normalize.glob_std],
            "steps": brain.optimizer_step,
        }
    )


@pytest.mark.parametrize("fault", ["loss", "infinite", "gradient", "input", "empty"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_bad_batch_changes_nothing(tmp_path: Path, fault: str, accumulation: int) -> None:
    """The window that holds it leaves no trace; training goes on as if it had not been there."""
    good = [None] * accumulation
    bad = [None] * (accumulation // 2) + [fault] + [None] * (accumulation - 1 - accumulation // 2)
    brain = make(tmp_path, accumulation)
    fit(brain, *good)
    before = state(brain)
    losses = fit(brain, *bad[: accumulation // 2 + 1], first=50)
    if fault != "gradient":  # is found where the window ends
        assert math.isnan(losses[-1])
        torch.testing.assert_close(state(brain), before, rtol=0, atol=0)
    fit(brain, *bad[accumulation // 2 + 1 :], first=60)
    torch.testing.assert_close(state(brain), before, rtol=0, atol=0)
    assert all(p.grad is None for p in brain.modules.parameters())
    fit(brain, *good, first=100)

    without = make(tmp_path, accumulation)
    fit(without, *good)
    fit(without, *good, first=100)
    torch.testing.assert_close(state(brain), state(without), rtol=0, atol=0)
    assert brain.history.totals["skipped_steps"] == 1


def test_the_last_window_of_an_epoch_has_fewer_batches() -> None:
    """It makes a step with their mean, and the next epoch begins with a window of its own."""
    brain, twos = make(accumulation=4), make(accumulation=2)
    brain.epoch_batches = twos.epoch_batches = 6
    fit(brain, *[None] * 4)
    before = state(brain)
    assert brain.optimizer_step == 1
    twos.modules.load_state_dict(before["modules"])
    twos.optimizer.load_state_dict(before["optimizer"])
    normalize = twos.modules.normalize
    normalize.count, normalize.glob_mean, normalize.glob_std = before["normalize"]
    for each in (brain, twos):
        each.step = 4
        fit(each, None, None, first=5)
    assert brain.optimizer_step == 2
    for part in ("modules", "optimizer"):
        torch.testing.assert_close(state(brain)[part], state(twos)[part], rtol=0, atol=0)
    brain.step = 0
    fit(brain, *[None] * 4, first=7)
    assert brain.optimizer_step == 3 and brain.guard.window_is_full


@pytest.mark.parametrize("known", [True, False])
def test_a_bad_batch_where_an_epoch_ends(known: bool) -> None:
    """Its window is cut off, by a step that is skipped or by nothing: no statistic is NaN."""
    brain = make(accumulation=3)
    brain.epoch_batches = 4 if known else None
    fit(brain, *[None] * 3)
    before = state(brain)
    fit(brain, "input", first=4)
    torch.testing.assert_close(state(brain), before, rtol=0, atol=0)
    assert brain.guard.window_is_full is known


def test_lengths_are_read_before_they_travel() -> None:
    """On the meta device, which stands for a GPU, they could not be read."""

    class Travelling(Brain):
        def compute_forward(self, batch: Any, stage: sb.Stage) -> torch.Tensor:
            batch.sig = PaddedData(*(part.to("meta") for part in batch.sig))
            return super().compute_forward(batch, stage)

    brain = make(sample_rate=10)
    brain.__class__ = Travelling
    batch: Any = Batch(1)
    batch.sig = PaddedData(torch.zeros(2, 20), torch.tensor([1.0, 0.5]))
    brain.step = 1
    brain.fit_batch(batch)
    assert brain.history.totals["audio_seconds"] == 3 and batch.sig.data.is_meta


def test_the_record_names_the_utterances(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    brain = make(tmp_path, accumulation=2)
    fit(brain, None, None, None, "loss", "gradient", None)
    lines = (tmp_path / "skipped_batches.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "utterances": ["utt-4a", "utt-4b"],
            "step": 2,
            "epoch": 1,
            "reason": "loss is nan",
            "rank": 0,
        },
        {  # found at the end of the window: any of its batches may be at fault
            "utterances": ["utt-5a", "utt-5b", "utt-6a", "utt-6b"],
            "step": 2,
            "epoch": 1,
            "reason": "gradient norm is nan",
            "rank": 0,
        },
    ]
    assert "utt-4a, utt-4b" in caplog.text and "step 2 of epoch 1" in caplog.text


def test_without_an_output_folder_it_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    fit(make(), "loss")
    assert "utt-1a" in caplog.text


def test_patience(tmp_path: Path) -> None:
    """It is about faults in a row, and every kind of fault counts."""
    brain = make(tmp_path, nonfinite_patience=2)
    fit(brain, "loss", "empty", None, "gradient", "input")
    before = state(brain)
    with pytest.raises(NonFiniteTrainingError) as error:
        fit(brain, "input", first=6)
    torch.testing.assert_close(state(brain), before, rtol=0, atol=0)
    message = str(error.value)
    assert "3 optimizer steps in a row" in message and "--nonfinite_patience=2" in message
    assert "utt-6a" in message and str(tmp_path / "skipped_batches.jsonl") in message


def test_a_lost_window_is_not_computed_further() -> None:
    brain = make(accumulation=3)
    seen = []
    brain.compute_forward = lambda batch, stage: seen.append(batch) or torch.zeros(1)  # type: ignore[func-returns-value, method-assign]
    fit(brain, "empty", None, None)
    assert seen == []


class WithoutFlag:
    """A batch that only has a length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def test_what_is_empty() -> None:
    assert is_empty(WithoutFlag(0)) and not is_empty(WithoutFlag(1)) and not is_empty(object())
    assert is_empty(Batch(1, "empty")) and not is_empty(Batch(1))


def test_fp16_overflows_are_told_apart(tmp_path: Path) -> None:
    """They lower the loss scale and are no fault until it cannot be lowered any more."""
    brain = make(tmp_path, nonfinite_patience=1)
    brain.scaler = torch.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    before = state(brain)
    fit(brain, "gradient", "gradient", "gradient")
    assert brain.scaler.get_scale() == 1.0
    assert brain.history.totals["overflow_steps"] == 3
    assert brain.history.totals["skipped_steps"] == 0
    assert not (tmp_path / "skipped_batches.jsonl").exists()
    fit(brain, "gradient", first=4)
    assert brain.history.totals["skipped_steps"] == 1
    after = state(brain)
    after["normalize"], before["normalize"] = None, None  # an overflow is no fault of the features
    for part in (before, after):
        part["modules"] = {k: v for k, v in part["modules"].items() if "running" not in k}
        part["modules"].pop("norm.num_batches_tracked")
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    with pytest.raises(NonFiniteTrainingError):
        fit(brain, "gradient", first=5)


def test_fp16_steps_are_steps() -> None:
    """The same gradients, scaled and unscaled again, make the same step."""
    brain, scaled = make(accumulation=2), make(accumulation=2)
    scaled.scaler = torch.GradScaler("cpu", init_scale=1024.0)
    assert fit(brain, None, None) == fit(scaled, None, None)
    torch.testing.assert_close(state(brain)["modules"], state(scaled)["modules"])
    assert scaled.optimizer_step == 1


def test_clips_all_parameter_groups() -> None:
    """SpeechBrain clips the first group only."""

    def two_groups(parameters: Any) -> torch.optim.Optimizer:
        parameters = list(parameters)
        return torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=1.0)

    steps = []
    for limit in (0.01, 1e9):
        brain = make(opt_class=two_groups, max_grad_norm=limit)
        before = torch.cat([p.detach().clone().flatten() for p in brain.modules.parameters()])
        fit(brain, None)
        after = torch.cat([p.detach().flatten() for p in brain.modules.parameters()])
        steps.append(float((after - before).norm()))
    assert steps[0] == pytest.approx(0.01, rel=1e-3)
    assert steps[1] == pytest.approx(brain.grad_norm, rel=1e-4)


def test_a_negative_limit_disables_clipping() -> None:
    """SpeechBrain says so, and turns the gradients around."""
    clipped, free = make(max_grad_norm=-1.0), make(max_grad_norm=1e9)
    fit(clipped, None)
    fit(free, None)
    torch.testing.assert_close(state(clipped), state(free), rtol=0, atol=0)


class TwoOptimizers(Brain):
    """The second layer has an optimizer of its own, which is frozen at first."""

    def init_optimizers(self) -> None:
        self.optimizers_dict = {
            "first": torch.optim.SGD(self.modules.first.parameters(), lr=0.1),
            "second": torch.optim.SGD(self.modules.second.parameters(), lr=0.1),
        }

    def freeze_optimizers(self, optimizers: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in optimizers.items() if k == "first" or self.optimizer_step > 0}


def test_a_frozen_optimizer_gathers_no_gradients() -> None:
    """SpeechBrain keeps adding them until the optimizer thaws."""
    base = make()
    brain = TwoOptimizers(dict(base.modules), run_opts={"device": "cpu"})
    brain.on_fit_start()
    before = brain.modules.second.weight.clone()
    fit(brain, None)
    assert torch.equal(brain.modules.second.weight, before)
    assert brain.modules.second.weight.grad is None
    fit(brain, None, first=2)
    assert not torch.equal(brain.modules.second.weight, before)


def rates(scheduler: Any, steps: int, *faults: str | None) -> list[float]:
    """The learning rate that each step was made with."""
    brain = make(lr_scheduler=scheduler)
    used: list[float] = []
    brain.on_optimizer_step = lambda: used.append(brain.optimizer.param_groups[0]["lr"])  # type: ignore[method-assign]
    fit(brain, *(faults or [None] * steps))
    return used


def test_step_n_is_made_with_the_rate_of_step_n() -> None:
    """SpeechBrain's recipes make the first step with the full rate, before any warm-up."""
    noam = NoamScheduler(1.0, n_warmup_steps=2)
    assert rates(noam, 3) == pytest.approx([0.5, 1.0, math.sqrt(2 / 3)])
    assert rates(LinearWarmupScheduler(1.0, 2, 4), 4) == pytest.approx([0.5, 1.0, 0.5, 0.0])
    counted = TriStageLRSchedule(1.0, warmup_steps=2, hold_steps=1, decay_steps=1, total_steps=4)
    assert rates(counted, 2)[1] > rates(counted, 1)[0]


def test_a_skipped_step_does_not_move_the_schedule() -> None:
    noam = NoamScheduler(1.0, n_warmup_steps=10)
    assert rates(noam, 0, None, "loss", "gradient", None) == pytest.approx([0.1, 0.2])


def test_a_scheduler_for_epochs_is_refused() -> None:
    with pytest.raises(TypeError, match="LinearScheduler is not made for single optimizer steps"):
        rates(LinearScheduler(1.0, 0.1, 5), 1)


def test_two_schedulers_are_refused() -> None:
    noam = NoamScheduler(1.0, 2)
    with pytest.raises(ValueError, match="lr_scheduler, noam_annealing"):
        make(lr_scheduler=noam, noam_annealing=noam)


def test_the_mean_loss_is_nan_until_a_loss_is_finite() -> None:
    """SpeechBrain's starts at 0, so a validation of NaN alone would be the best ever."""
    brain, mean = make(), 0.0
    for step, (loss, expected) in enumerate(
        [(math.nan, math.nan), (math.inf, math.nan), (3.0, 3.0), (math.nan, 3.0), (8.0, 4.0)], 1
    ):
        brain.step = step
        mean = brain.update_average(torch.tensor(loss), mean)
        assert mean == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("fault", ["loss", "empty"])
def test_evaluation_reports_what_it_leaves_out(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    brain = make(tmp_path)
    brain.fit_batch(Batch(1))
    brain.modules.eval()
    assert math.isnan(brain.evaluate_batch(Batch(7, fault), sb.Stage.VALID))
    assert "utt-7a" in caplog.text
    (line,) = (tmp_path / "skipped_batches.jsonl").read_text().splitlines()
    assert json.loads(line)["utterances"] == ["utt-7a", "utt-7b"]
    assert json.loads(line)["reason"].startswith("VALID: ")
