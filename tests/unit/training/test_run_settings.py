"""Going on with a run: what may differ, what is refused, and what is taken up if it is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import speechbrain as sb
import torch
from speechbrain.nnet.schedulers import (
    LinearWarmupScheduler,
    NewBobScheduler,
    NoamScheduler,
    ReduceLROnPlateau,
    TriStageLRSchedule,
    WarmAndExpDecayLRSchedule,
)

from summarymixing_modules.errors import InputError
from summarymixing_modules.training import brain
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.recipe.config import Recipe, load_recipe
from summarymixing_modules.training.recipe.reads import keys_read
from summarymixing_modules.training.run.report import describe_run
from summarymixing_modules.training.schedules import ConfiguredRates

YAML = """
seed: 1
data_folder: /data
output_folder: FOLDER
save_folder: !ref <output_folder>/save
train_splits: [a, b]
test_beam_size: 1
num_workers: 0
precision: fp32
grad_accumulation_factor: 2
training_steps: 4
optimizer_step_limit: !ref <training_steps>
number_of_epochs: 3
lr: 1.0
warmup_steps: 1
note: !ref <output_folder>/<test_beam_size>
layer: !new:torch.nn.Linear [1, 1]
modules: {layer: !ref <layer>}
opt_class: !name:torch.optim.SGD
    lr: !ref <lr>
    weight_decay: 0.25
lr_scheduler: !new:speechbrain.nnet.schedulers.LinearWarmupScheduler
    initial_value: !ref <lr>
    num_warmup_steps: !ref <warmup_steps>
    num_training_steps: !ref <training_steps>
epoch_counter: !new:speechbrain.utils.epoch_loop.EpochCounter
    limit: !ref <number_of_epochs>
checkpointer: !new:summarymixing_modules.training.run.checkpoints.AtomicCheckpointer
    checkpoints_dir: !ref <save_folder>
    recoverables: {layer: !ref <layer>, counter: !ref <epoch_counter>}
"""
READ_BY_CODE = {
    "checkpointer", "data_folder", "epoch_counter", "grad_accumulation_factor", "modules", "note",
    "num_workers", "opt_class", "optimizer_step_limit", "precision", "test_beam_size",
    "train_splits",
}  # fmt: skip
KEYS = keys_read(brain.__file__) | READ_BY_CODE


class OneWeight(SafeBrain):
    """Pulls one weight towards 0."""

    seen_rates: list[float]

    def compute_forward(self, batch: torch.Tensor, stage: sb.Stage) -> torch.Tensor:
        """The output of the layer."""
        return self.modules.layer(batch)

    def compute_objectives(
        self, predictions: torch.Tensor, batch: torch.Tensor, stage: sb.Stage
    ) -> torch.Tensor:
        """Its square."""
        return predictions.square().mean()

    def on_optimizer_step(self) -> None:
        """Note the rate."""
        self.seen_rates.append(self._learning_rate())

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Close the epoch."""
        if stage == sb.Stage.VALID:
            assert epoch is not None
            self.end_epoch(epoch, {"loss": 0.0}, {"loss": stage_loss})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's file."""
    file = tmp_path / "recipe.yaml"
    file.write_text(YAML.replace("FOLDER", str(tmp_path / "run")))
    return file


def load(file: Path, *flags: str, keys: set[str] | frozenset[str] = KEYS) -> Recipe:
    return load_recipe([str(file), "--device=cpu", "--noprogressbar", *flags], keys)


def train(file: Path, *flags: str, examples: int = 4) -> OneWeight:
    """A batch for every example, two a step."""
    recipe = load(file, *flags)
    hparams = recipe.hparams
    brain = OneWeight(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        recipe.run_opts,
        hparams["checkpointer"],
    )
    brain.seen_rates = []
    batches = torch.ones(examples, 1)
    brain.fit(hparams["epoch_counter"], batches, batches)
    return brain


def edit(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    return file


def saved(file: Path, *flags: str) -> Recipe:
    """A run with a checkpoint."""
    recipe = load(file, *flags)
    checkpointer = recipe.hparams["checkpointer"]
    checkpointer.add_recoverable("settings", recipe.hparams["run_settings"])
    checkpointer.save_checkpoint()
    return recipe


def refusal(file: Path, *flags: str, keys: set[str] | frozenset[str] = KEYS) -> str:
    with pytest.raises(InputError) as error:
        load(file, *flags, keys=keys)
    return str(error.value)


def listed(text: str) -> list[str]:
    """The differences that a message lists."""
    return [line.strip() for line in text.splitlines() if line.startswith("  ")]


FREE = [
    "--num_workers=2", "--test_beam_size=8", "--data_folder=/elsewhere", "--number_of_epochs=9",
    "--optimizer_step_limit=2", "--ckpt_interval_steps=3", "--eval_precision=bf16",
    "--nonfinite_patience=9",
]  # fmt: skip


def test_what_does_not_decide_may_differ(recipe: Path) -> None:
    """The folder may have another name, too, and so what refers to it."""
    saved(recipe)
    load(recipe, *FREE)
    moved = recipe.parent / "moved"
    (recipe.parent / "run").rename(moved)
    load(recipe, f"--output_folder={moved}", *FREE)
    assert load(recipe, f"--output_folder={moved}", "--test_only", "--lr=9").hparams["lr"] == 9


@pytest.mark.parametrize(
    ("flags", "differences", "give_back"),
    [
        (["--lr=0.5"], ["lr: 1.0, now 0.5"], "--lr=1.0"),
        (["--seed=2", "--num_workers=2"], ["seed: 1, now 2"], "--seed=1"),
        (["--training_steps=8"], ["training_steps: 4, now 8"], "--training_steps=4"),
        (["--train_splits=[a]"], ['train_splits: ["a", "b"], now ["a"]'], "'--train_splits="),
        (["--precision=bf16"], ["precision: fp32, now bf16"], "--precision=fp32"),
        (["--max_grad_norm=1"], ["max_grad_norm: 5.0, now 1.0"], "--max_grad_norm=5.0"),
        (["--grad_accumulation_factor=3"], ["batches in a step: 2, now 3"], "the settings"),
    ],
)  # fmt: skip
def test_what_decides_is_refused(
    recipe: Path, flags: list[str], differences: list[str], give_back: str
) -> None:
    """What follows from it (the scheduler's arguments, say) is not listed beside it."""
    saved(recipe)
    record = (recipe.parent / "run" / "hyperparams.yaml").read_text()
    text = refusal(recipe, *flags)
    assert listed(text) == differences
    assert f"Give {give_back}" in text and "--resume_with_changes=True" in text
    assert (recipe.parent / "run" / "hyperparams.yaml").read_text() == record
    load(recipe, *flags, "--debug")  # has a temporary folder of checkpoints
    load(recipe, *flags, "--resume_with_changes=True")


@pytest.mark.parametrize(
    ("old", "new", "differences"),
    [
        ("weight_decay: 0.25", "weight_decay: 0.5", ["opt_class[weight_decay]: 0.25, now 0.5"]),
        ("weight_decay: 0.25", "", ["opt_class[weight_decay]: 0.25, now not there"]),
        ("optim.SGD", "optim.AdamW", ["opt_class: !name:torch.optim.SGD, now !name:torch.optim.A"]),
        ("note: !ref <output_folder>/<test_beam_size>", "note: 1", ["note: "]),
    ],
)
def test_an_edited_file_is_refused(
    recipe: Path, old: str, new: str, differences: list[str]
) -> None:
    saved(recipe)
    found = listed(refusal(edit(recipe, old, new), "--num_workers=3", "--number_of_epochs=9"))
    assert len(found) == len(differences)
    assert all(text.startswith(start) for text, start in zip(found, differences, strict=True))


def test_epochs_that_the_schedule_knows_decide(recipe: Path) -> None:
    edit(
        recipe,
        "num_training_steps: !ref <training_steps>",
        "num_training_steps: !ref <number_of_epochs>",
    )
    saved(recipe)
    assert listed(refusal(recipe, "--number_of_epochs=9")) == ["number_of_epochs: 3, now 9"]


def test_epochs_that_code_reads_decide(recipe: Path) -> None:
    saved(recipe)
    told = refusal(recipe, "--number_of_epochs=9", keys=KEYS | {"number_of_epochs"})
    assert listed(told) == ["number_of_epochs: 3, now 9"]


def test_the_same_batches_on_more_processes(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(recipe)
    settings = "summarymixing_modules.training.recipe.settings"
    monkeypatch.setattr(f"{settings}.world_size", lambda: 2)
    load(recipe, "--grad_accumulation_factor=1")
    assert listed(refusal(recipe)) == ["batches in a step: 2, now 4"]


def test_the_switch_is_true_or_false(recipe: Path) -> None:
    saved(recipe)
    assert listed(refusal(recipe, "--lr=2", "--resume_with_changes=false")) == ["lr: 1.0, now 2"]
    load(recipe, "--lr=2", "--resume_with_changes")
    assert "must be True or False" in refusal(recipe, "--resume_with_changes=maybe")
    assert "given twice" in refusal(recipe, *["--resume_with_changes=True"] * 2)
    assert "mean --resume_with_changes" in refusal(recipe, "--resume_with_change=True")


def test_a_longer_training_has_the_rates_of_its_schedule(recipe: Path) -> None:
    """A finished training that goes on would otherwise train at rate 0."""
    assert train(recipe).seen_rates == [1.0, pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0]
    longer = ["--training_steps=11", "--lr=2", "--number_of_epochs=9", "--resume_with_changes"]
    edit(recipe, "weight_decay: 0.25", "weight_decay: 0.5")
    brain = train(recipe, *longer)
    assert brain.seen_rates == pytest.approx([2 * (11 - step) / 10 for step in range(5, 12)])
    assert brain.optimizer.param_groups[0]["weight_decay"] == 0.5
    changes = brain.history.changes
    assert [change["step"] for change in changes] == [4]
    names = [setting["name"] for setting in changes[0]["settings"]]
    assert names == ["training_steps", "lr", "opt_class[weight_decay]"]
    again = train(recipe, *longer[:-1])  # now these are the settings of its checkpoints
    assert again.seen_rates == [] and again.history.changes == changes
    assert describe_run(again, recipe.parent / "run")["resumed_with_changes"] == changes


def test_other_data_under_the_same_name_are_refused(recipe: Path) -> None:
    """The corpus is in the same folder, and has grown."""
    train(recipe, "--number_of_epochs=1")
    with pytest.raises(InputError, match="trained on other data.*--resume_with_changes=True"):
        train(recipe, examples=6)
    brain = train(recipe, "--resume_with_changes=True", examples=6)
    assert brain.optimizer_step == 4
    (change,) = brain.history.changes
    assert [setting["name"] for setting in change["settings"]] == ["training data"]


def test_less_than_what_was_done_is_refused(recipe: Path) -> None:
    train(recipe)
    with pytest.raises(InputError, match="has done 4 optimizer steps, and should end after 3"):
        train(recipe, "--optimizer_step_limit=3")
    with pytest.raises(InputError, match="has done 2 epochs, and should end after 1"):
        train(recipe, "--number_of_epochs=1")


def dummy() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(())], lr=1.0)


def rates(schedule: Any, start: int, steps: int) -> list[float]:
    """The rates of some steps."""
    optimizer, found = dummy(), []
    for step in range(start, start + steps):
        schedule(optimizer) if not isinstance(schedule, TriStageLRSchedule) else schedule(
            optimizer, step
        )
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda x: NoamScheduler(x, 3),
        lambda x: LinearWarmupScheduler(x, 2, int(20 * x)),
        lambda x: WarmAndExpDecayLRSchedule(x, 2, 20),
        lambda x: TriStageLRSchedule(x, 2, 3, 20, 20 * x),
    ],
    ids=["noam", "linear", "exponential", "three stages"],
)
def test_a_schedule_taken_up_equals_one_from_the_start(
    tmp_path: Path, make: Callable[[float], Any]
) -> None:
    old, new, whole = make(1.0), make(2.0), make(2.0)
    rates(old, 0, 6)
    old.save(tmp_path / "state")
    recoverables = {"schedule": new, "optimizer": dummy()}
    configured = ConfiguredRates(recoverables)
    new.load(tmp_path / "state")
    recoverables["optimizer"].param_groups[0]["weight_decay"] = 0.75  # type: ignore[index]
    configured.restore(recoverables, 6)
    assert rates(whole, 0, 10)[6:] == rates(new, 6, 4)
    assert recoverables["optimizer"].param_groups[0]["weight_decay"] == 0


def test_a_schedule_of_losses_is_taken_up_by_its_losses(tmp_path: Path) -> None:
    old, new, whole = (
        NewBobScheduler(rate, factor) for rate, factor in [(1, 0.5), (2, 0.1), (2, 0.1)]
    )
    losses = [3.0, 2.0, 2.0, 1.9, 1.9, 1.0]
    for loss in losses[:4]:
        old(loss)
    old.save(tmp_path / "state")
    configured = ConfiguredRates({"schedule": new})
    new.load(tmp_path / "state")
    configured.restore({"schedule": new}, 100)
    for loss in losses:
        whole(loss)
    for loss in losses[4:]:
        new(loss)
    assert vars(new) == vars(whole)


def test_a_schedule_that_cannot_be_taken_up_is_told() -> None:
    recoverables = {"schedule": ReduceLROnPlateau()}
    with pytest.raises(InputError, match="a ReduceLROnPlateau cannot be taken up"):
        ConfiguredRates(recoverables).restore(recoverables, 3)
