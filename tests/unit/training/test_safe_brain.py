"""SafeBrain around the steps: fitting, checkpoints, resuming, evaluating, reporting."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import speechbrain as sb
import torch
from matplotlib.image import imread
from speechbrain.nnet.schedulers import NoamScheduler
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger
from torch.utils.data import DataLoader, IterableDataset

from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.run.checkpoints import (
    ArchitectureMismatchError,
    AtomicCheckpointer,
    NoCheckpointError,
)
from summarymixing_modules.training.run.history import TrainHistory
from summarymixing_modules.training.run.report import config_hash, git_commit


def collate(rows: list[torch.Tensor]) -> SimpleNamespace:
    """A batch of vectors that also counts as 0.5 s of audio a row, a fifth of it padding."""
    x_BD = torch.stack(rows)
    audio = sb.dataio.batch.PaddedData(torch.zeros(len(rows), 5), torch.full((len(rows),), 0.8))
    return SimpleNamespace(id=[f"{row[0]:.3f}" for row in rows], x_BD=x_BD, sig=audio)


class Brain(SafeBrain):
    """One layer with dropout."""

    ranking = {"min_key": "WER"}

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        torch.rand(())  # hooks may draw, too

    def compute_forward(self, batch: SimpleNamespace, stage: sb.Stage) -> torch.Tensor:
        return self.modules.layer(torch.nn.functional.dropout(batch.x_BD, 0.3, self.is_training))

    @property
    def is_training(self) -> bool:
        return self.modules.training

    def compute_objectives(
        self, predictions: torch.Tensor, batch: SimpleNamespace, stage: sb.Stage
    ) -> torch.Tensor:
        return predictions.square().mean()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
        elif stage == sb.Stage.VALID:
            assert epoch is not None
            wer = self.hparams.wers[epoch - 1] if hasattr(self.hparams, "wers") else 1.0
            stats = {"loss": stage_loss, "WER": wer}
            self.end_epoch(epoch, {"loss": self.train_loss}, stats)


DATA = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
LOADER = {"batch_size": 2, "collate_fn": collate}


def make(folder: Path, options: dict[str, Any] | None = None, **hparams: Any) -> Brain:
    """A Brain whose checkpoints lie in the folder."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    counter = EpochCounter(hparams.pop("epochs", 2))
    hparams |= {"output_folder": folder, "curve_interval": 2, "epoch_counter": counter}
    hparams |= {"lr_scheduler": NoamScheduler(0.1, 3), "seed": 1, "sample_rate": 10}
    return Brain(
        {"layer": layer},
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
        hparams,
        {"device": "cpu", "noprogressbar": True} | (options or {}),
        AtomicCheckpointer(folder / "save", {"layer": layer, "counter": counter}),
    )


def fit(brain: Brain, **changes: Any) -> None:
    """Train and validate on the same vectors."""
    loader = LOADER | {"shuffle": True} | changes
    brain.fit(brain.hparams.epoch_counter, DATA, DATA, None, loader, LOADER)


def test_an_ordinary_checkpointer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="AtomicCheckpointer, not Checkpointer"):
        SafeBrain(checkpointer=Checkpointer(tmp_path))


class Killed(Exception):
    """Stands for a kill, where a process of its own would take too long."""


@pytest.mark.parametrize(
    ("changes", "accumulation"),
    [({"shuffle": True}, 1), ({"shuffle": False}, 1), ({"num_workers": 2}, 1), ({}, 4)],
)
@pytest.mark.parametrize("interval", [0, 2])
def test_resumes_as_if_nothing_had_happened(
    tmp_path: Path, changes: dict[str, Any], accumulation: int, interval: int
) -> None:
    """At an epoch's start and in its middle; with workers too, as none draws a random number."""
    options = {"grad_accumulation_factor": accumulation}
    reference = make(tmp_path / "reference", options)
    fit(reference, **changes)
    options |= {"ckpt_interval_steps": interval}
    killed = make(tmp_path / "killed", options)
    # An epoch has 6 batches. Saved after 6, and with an interval after 8, or a window of 4: 10.
    saved, kill_at, end = (6 + interval, 9, 12) if accumulation == 1 else (2 + interval // 2, 4, 4)

    def kill() -> None:
        if killed.optimizer_step == kill_at:
            raise Killed

    killed.on_optimizer_step = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        fit(killed, **changes)
    torch.manual_seed(5)
    resumed = make(tmp_path / "killed", options)
    resumed_steps: list[int] = []
    resumed.on_optimizer_step = lambda: resumed_steps.append(resumed.optimizer_step)  # type: ignore[method-assign]
    fit(resumed, **changes)
    assert resumed_steps == list(range(saved + 1, end + 1))
    for part in ("modules", "optimizer"):
        got, want = (getattr(brain, part).state_dict() for brain in (resumed, reference))
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert resumed.history.curves == reference.history.curves
    got_epochs, want_epochs = (
        [{**e, "totals": e["totals"]["audio_seconds"]} for e in b.history.epochs]
        for b in (resumed, reference)
    )
    assert got_epochs == want_epochs


def test_a_checkpoint_of_a_train_stage_starts_the_next_epoch(tmp_path: Path) -> None:
    """Without validation the epoch is closed while the Brain still counts its batches."""

    class NoValidation(Brain):
        def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
            self.end_epoch(epoch or 0, {"loss": stage_loss})

    first = make(tmp_path, epochs=1)
    first.__class__ = NoValidation
    first.fit(first.hparams.epoch_counter, DATA, None, None, LOADER)
    second = make(tmp_path, epochs=2)
    second.__class__ = NoValidation
    second.on_fit_start()
    assert (second.step, second.avg_train_loss, second.optimizer_step) == (0, 0.0, 6)


def test_the_limit_of_steps_holds_when_resumed(tmp_path: Path) -> None:
    """A finished run that is started again trains nothing and validates nothing."""
    for _ in range(2):
        brain = make(tmp_path, {"optimizer_step_limit": 4}, epochs=5)
        fit(brain)
        assert brain.optimizer_step == 4
        assert len(brain.history.epochs) == 1


def test_windows_may_change_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """Those after the checkpoint are whole: 2 of 2 batches in the first epoch, then 1 of 2."""
    first = make(tmp_path, {"grad_accumulation_factor": 2, "ckpt_interval_steps": 2}, epochs=1)

    def kill() -> None:
        if first.optimizer_step == 2:
            raise Killed

    first.on_optimizer_step = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        fit(first)
    second = make(tmp_path, {"grad_accumulation_factor": 3}, epochs=1)
    sizes: list[int] = []
    second.on_optimizer_step = lambda: sizes.append(second.guard.size)  # type: ignore[method-assign]
    fit(second)
    assert sizes == [3, 1] and second.optimizer_step == 3


class Endless(IterableDataset):
    """Vectors of which nobody knows how many there are."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(DATA)


def test_batches_without_a_step_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where an epoch's end cannot be foreseen its last window cannot be closed."""
    brain = make(tmp_path, {"grad_accumulation_factor": 4}, epochs=1)
    brain.fit(brain.hparams.epoch_counter, Endless(), None, None, LOADER)
    assert brain.optimizer_step == 1
    assert "The last 2 batches of epoch 1 made no step" in caplog.text
    brain = make(tmp_path / "long", {"grad_accumulation_factor": 7}, epochs=1)
    fit(brain)
    assert brain.optimizer_step == 1, "of all of the epoch's batches"
    brain = make(tmp_path / "nan", {"nonfinite_patience": 9}, epochs=1)
    brain.compute_objectives = lambda *_, **__: torch.tensor(math.nan)  # type: ignore[method-assign]
    fit(brain)
    assert "Epoch 1 made no optimizer step" in caplog.text


def test_no_checkpoint_within_an_accumulation_window(tmp_path: Path) -> None:
    brain = make(tmp_path, {"grad_accumulation_factor": 3, "ckpt_interval_steps": 2}, epochs=1)
    saved: list[int] = []
    save = brain.checkpointer.save_checkpoint

    def note(*args: Any, **kwargs: Any) -> Any:
        saved.append(brain.step)
        return save(*args, **kwargs)

    brain.checkpointer.save_checkpoint = note
    fit(brain)
    assert saved == [3, 6, 0]  # and at the end of the epoch
    (left,) = brain.checkpointer.list_checkpoints()
    assert left.meta["end-of-epoch"] is True


def test_a_loader_that_cannot_be_resumed_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    brain = make(tmp_path, epochs=1)
    loader: Any = DataLoader(DATA, batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    brain.fit(brain.hparams.epoch_counter, loader)
    assert "does not save its position" in caplog.text
    brain.step = 3
    brain._save(tmp_path / "brain")
    brain._recover_progress(tmp_path / "brain", end_of_epoch=False)
    assert brain.step == 0, "the epoch starts over"


def test_a_scheduler_is_saved_unasked(tmp_path: Path) -> None:
    fit(make(tmp_path))
    resumed = make(tmp_path, epochs=3)
    resumed.on_fit_start()
    assert resumed.lr_scheduler.n_steps == 12


def test_the_log_has_a_line_an_epoch(tmp_path: Path) -> None:
    brain = make(tmp_path, train_logger=FileTrainLogger(tmp_path / "log.txt"))
    fit(brain)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 2 and "valid WER: 1.0" in lines[1] and "steps: 12" in lines[1]


def test_evaluates_the_mean_of_the_best(tmp_path: Path) -> None:
    """By the key that is given; the training's progress stays the training's."""
    brain = make(tmp_path, epochs=4, avg_checkpoints=2, wers=[9.0, 2.0, 3.0, 8.0])
    weights: dict[int, torch.Tensor] = {}
    brain.on_optimizer_step = lambda: weights.update(  # type: ignore[method-assign]
        {brain.optimizer_step: brain.modules.layer.weight.detach().clone()}
    )
    fit(brain)
    history = json.dumps(brain.history.epochs)
    random_state = torch.get_rng_state()
    brain.on_evaluate_start(min_key="WER")
    torch.testing.assert_close(brain.modules.layer.weight, (weights[12] + weights[18]) / 2)
    assert brain.averaged_checkpoints == 2
    assert brain.optimizer_step == 24 and json.dumps(brain.history.epochs) == history
    assert torch.equal(torch.get_rng_state(), random_state)
    brain.on_evaluate_start()
    torch.testing.assert_close(brain.modules.layer.weight, (weights[18] + weights[24]) / 2)
    brain.on_evaluate_start(max_key="WER")
    torch.testing.assert_close(brain.modules.layer.weight, (weights[24] + weights[18]) / 2)


def test_only_testing_needs_a_checkpoint(tmp_path: Path) -> None:
    brain = make(tmp_path, {"test_only": True})
    fit(brain)  # does nothing
    with pytest.raises(NoCheckpointError, match=r"no checkpoint with a WER in .*save"):
        brain.evaluate(DATA, min_key="WER", test_loader_kwargs=dict(LOADER))


def test_only_testing_reports_the_whole_training(tmp_path: Path) -> None:
    """The best checkpoint is the first, the curves those of the last."""
    fit(make(tmp_path, wers=[1.0, 2.0]))
    brain = make(tmp_path, {"test_only": True})
    loss = brain.evaluate(DATA, min_key="WER", test_loader_kwargs=dict(LOADER))
    assert math.isfinite(loss)
    result = brain.finish({"test_wer": 12.5})
    assert result["optimizer_steps"] == 12 and result["epochs"] == 2


def test_another_mixer_is_refused(tmp_path: Path) -> None:
    fit(make(tmp_path, attention_type="SummaryMixing", d_model=3))
    other = make(tmp_path, attention_type="RoPEMHA", d_model=3)
    with pytest.raises(ArchitectureMismatchError, match="SummaryMixing.*RoPEMHA"):
        fit(other)


def test_debugging_runs_all_stages(tmp_path: Path) -> None:
    """A few batches of each, and nothing in the folder of the checkpoints."""
    brain = make(tmp_path, {"debug": True}, epochs=5)
    fit(brain)
    assert math.isfinite(brain.evaluate(DATA, min_key="WER", test_loader_kwargs=dict(LOADER)))
    assert brain.averaged_checkpoints == 1
    result = brain.finish({"test_wer": 100.0})
    assert result["optimizer_steps"] == 4 and result["epochs"] == 2
    assert not list((tmp_path / "save").glob("*"))


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every field, in strict JSON, and the paths printed."""
    (tmp_path / "hyperparams.yaml").write_text("# Generated today\nlr: 0.1\n")
    brain = make(tmp_path, attention_type="SummaryMixing")
    fit(brain)
    metrics: dict[str, Any] = {"test_wer": torch.tensor(12.5), "test_cer": math.nan}
    result = brain.finish(metrics, real_time_factor=0.02, extra={"note": {"x": math.inf}})
    printed = capsys.readouterr().out
    assert str(tmp_path / "result.json") in printed and str(tmp_path / "curves.png") in printed

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse) == result
    assert result["metrics"] == {"test_wer": 12.5, "test_cer": None}
    assert result["note"] == {"x": None}
    assert result["parameters"] == {"total": 12, "trainable": 12}
    assert result["architecture"] == {"attention_type": "SummaryMixing"}
    assert (result["optimizer_steps"], result["epochs"], result["skipped_steps"]) == (12, 2, 0)
    assert result["real_time_factor"] == 0.02
    # 24 utterances of 5 samples at 10 Hz, 80 % of them audio.
    assert result["audio_hours_seen"] == pytest.approx(24 * 0.5 * 0.8 / 3600)
    assert result["padding_share"] == pytest.approx(0.2)
    assert 0 < result["train_seconds"] < result["total_seconds"]
    assert result["train_seconds"] == pytest.approx(sum(result["seconds"].values()))
    assert result["peak_memory_mb"] > 50
    assert result["versions"]["torch"] == torch.__version__
    assert len(result["config_sha256"]) == 64
    assert (result["device"], result["world_size"], result["precision"]) == ("cpu", 1, "fp32")
    assert {"command", "date", "device_name", "git_commit", "peak_memory_of"} <= set(result)
    with pytest.raises(ValueError, match=r"has metrics already"):
        brain.finish({}, extra={"metrics": {}})


def test_the_curves(tmp_path: Path) -> None:
    """A picture of a sensible size on which something is drawn in colour."""
    brain = make(tmp_path)
    fit(brain)
    brain.finish({})
    pixels = imread(tmp_path / "curves.png")
    assert pixels.shape[0] > 600 and pixels.shape[1] > 1000
    coloured = (pixels[..., :3].max(axis=2) - pixels[..., :3].min(axis=2)) > 0.2
    assert coloured.mean() > 0.001
    for half in (coloured[:400], coloured[440:]):  # both rows of panels
        assert half.any()


def test_curves_without_data(tmp_path: Path) -> None:
    """A run that was only tested still gets its picture."""
    brain = make(tmp_path)
    brain.finish({"test_wer": 5.0})
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_reporting_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="output_folder"):
        SafeBrain(run_opts={"device": "cpu"}).finish({})


def test_history_round_trip(tmp_path: Path) -> None:
    """To the last bit, in the middle of an interval."""
    history = TrainHistory(interval=2)
    for step in range(1, 6):
        history.add_loss(0.1 * step)
        history.add_loss(math.nan)
        history.add_step(step, 1e-3 / step, math.pi * step)
    history.add_epoch(1, 5, {"train": {"loss": 0.3}, "valid": {"loss": math.nan}})
    history.save(tmp_path / "history.ckpt")
    other = TrainHistory(interval=2)
    other.load(tmp_path / "history.ckpt")
    for h in (history, other):
        h.add_loss(1.0)
        h.add_step(6, 0.5, 0.5)
    assert other.curves == history.curves
    assert history.curves["step"] == [2, 4, 6]
    assert history.curves["loss"] == pytest.approx([0.15, 0.35, 0.75])
    assert other.epochs[0]["train"] == {"loss": 0.3} and other.last_step == 6
    with pytest.raises(ValueError, match="curve_interval"):
        TrainHistory(interval=0)


def test_the_config_hash_ignores_the_date(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    first.write_text("# Generated 2026-01-01\nlr: 1\n")
    second.write_text("# Generated 2026-01-02\nlr: 1\n")
    third.write_text("# Generated 2026-01-01\nlr: 2\n")
    assert config_hash(first) == config_hash(second) != config_hash(third)
    assert config_hash(tmp_path / "missing") is None


def test_a_file_that_git_does_not_track_has_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path / "file.py") is None
