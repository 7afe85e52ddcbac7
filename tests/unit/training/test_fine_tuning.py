"""Two optimizers and their schedules, and settings that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from speechbrain import Stage
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.models import ConvFrontEnd1d, TransformerASR
from summarymixing_modules.models.asr.fine_tuned import FineTunedModel
from summarymixing_modules.training.fine_tuning import check_settings
from summarymixing_modules.training.run.checkpoints import (
    ArchitectureMismatchError,
    AtomicCheckpointer,
)
from tests.ranks import load_script

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "LibriSpeech" / "SSL" / "fine-tuning"
FineTuningBrain: Any = load_script(RECIPE / "train.py").FineTuningBrain

MakeBrain = Callable[..., "ToyBrain"]

SETTINGS: dict[str, Any] = {
    "lr": 0.1,
    "encoder_lr": 0.01,
    "annealing_factor": 0.5,
    "encoder_annealing_factor": 0.7,
    "training_steps": None,
    "warmup_steps": 0,
    "freeze_encoder": False,
    "from_scratch": False,
    "output_neurons": 5,
    "head_size": 6,
    "head_layers": 1,
}


class ToyBrain(FineTuningBrain):  # type: ignore[misc]
    """Features instead of audio, and validation losses that are made up."""

    losses: list[float]

    def make_scores(self, stage: Any, epoch: int | None) -> dict[str, Any]:
        return {}

    def compute_forward(self, batch: Any, stage: Any) -> tuple[Tensor, Tensor]:
        return self.modules.model(torch.ones(1, 8, 10), torch.tensor([8]))

    def compute_objectives(
        self, predictions: tuple[Tensor, Tensor], batch: Any, stage: Any
    ) -> Tensor:
        return -predictions[0][..., 1].mean()

    def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
        if stage.name == "VALID":
            assert epoch is not None
            # The first epoch writes nothing: fewer wrong words than in the attempts after it.
            errors = {"WER": 99.0 + epoch, "CER": 100.0 / epoch}
            self.end_epoch(epoch, {"loss": 0.0}, {"loss": self.losses[epoch - 1], **errors})

    def used(self) -> dict[str, float]:
        """The rates that the last step was made with."""
        return {n: o.param_groups[0]["lr"] for n, o in self.optimizers_dict.items()}


@pytest.fixture
def make_brain(tmp_path: Path) -> MakeBrain:
    def make(**settings: Any) -> ToyBrain:
        torch.manual_seed(0)
        size = {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 8, "kernel_size": 3}
        transformer = TransformerASR(5, 8, num_decoder_layers=0, **size)
        model = FineTunedModel(ConvFrontEnd1d(10, (8, 8)), transformer, 5, 6, 1)
        opt_class = partial(torch.optim.AdamW, weight_decay=0.001)
        hparams = {**SETTINGS, "opt_class": opt_class, "output_folder": tmp_path, **settings}
        if hparams["freeze_encoder"]:
            model.freeze_encoder()
        brain = ToyBrain(
            {"model": model},
            opt_class,
            hparams,
            {"device": "cpu", "noprogressbar": True, "max_grad_norm": 5.0},
            AtomicCheckpointer(tmp_path / "save", {"model": model}),
        )
        brain.losses = [3.0, 2.0, 2.0, 2.0, 1.0]
        return brain

    return make


def train(brain: ToyBrain, epochs: range) -> None:
    brain.fit(epochs, [0, 1], [0])


def test_newbob_anneals_both_after_epochs_without_progress(make_brain: MakeBrain) -> None:
    brain = make_brain()
    seen = []
    for epoch in range(1, 6):
        train(brain, range(epoch, epoch + 1))
        seen.append(brain.used())
    assert [rates["head"] for rates in seen] == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.025])
    encoder = [0.01, 0.01, 0.01, 0.007, 0.0049]
    assert [rates["encoder"] for rates in seen] == pytest.approx(encoder)
    assert brain.history.epochs[3]["train"]["encoder_lr"] == pytest.approx(0.007)
    assert brain.history.epochs[3]["lr"] == pytest.approx(0.05)


def test_a_budget_of_steps_ends_at_zero(make_brain: MakeBrain) -> None:
    brain = make_brain(training_steps=6, warmup_steps=2)
    train(brain, range(1, 2))
    assert brain.used() == pytest.approx({"head": 0.1, "encoder": 0.01})
    train(brain, range(2, 4))
    assert brain.used() == {"head": 0.0, "encoder": 0.0}


def test_both_optimizers_and_schedules_come_back(make_brain: MakeBrain) -> None:
    brain = make_brain()
    train(brain, range(1, 4))
    again = make_brain()
    again.on_fit_start()
    for name, optimizer in brain.optimizers_dict.items():
        mine = again.optimizers_dict[name].state_dict()
        states = zip(mine["state"].values(), optimizer.state_dict()["state"].values(), strict=True)
        for found, expected in states:
            assert expected["step"] == 6 and torch.equal(found["exp_avg"], expected["exp_avg"])
        mine, expected = (b.rates.parts[name].schedule for b in (again, brain))
        assert mine.hyperparam_value == expected.hyperparam_value
    assert again.rates.parts["head"].schedule.hyperparam_value == 0.05
    head = sum(p.numel() for p in brain.model.output.parameters())
    counts = {
        name: sum(p.numel() for group in o.param_groups for p in group["params"])
        for name, o in brain.optimizers_dict.items()
    }
    total = sum(p.numel() for p in brain.model.parameters())
    assert counts == {"head": head, "encoder": total - head}


def test_attempts_are_better_than_silence(make_brain: MakeBrain) -> None:
    brain = make_brain()
    train(brain, range(1, 3))
    trained = {name: weight.clone() for name, weight in brain.model.state_dict().items()}
    again = make_brain()
    again.on_evaluate_start(**again.ranking)
    assert all(torch.equal(trained[n], w) for n, w in again.model.state_dict().items())


def test_a_frozen_encoder_has_no_optimizer(make_brain: MakeBrain) -> None:
    brain = make_brain(freeze_encoder=True)
    before = {n: t.clone() for n, t in brain.model.state_dict().items()}
    train(brain, range(1, 3))
    assert list(brain.optimizers_dict) == list(brain.rates.parts) == ["head"]
    after = brain.model.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"output"} and math.isfinite(brain.grad_norm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_encoder": True}, "freeze_encoder False.*asks for freeze_encoder True"),
        ({"training_steps": 9}, "training_steps None.*asks for training_steps 9"),
    ],
)
def test_another_training_does_not_go_on(
    settings: dict[str, Any], message: str, make_brain: MakeBrain
) -> None:
    train(make_brain(), range(1, 2))
    with pytest.raises(ArchitectureMismatchError, match=message):
        make_brain(**settings).on_fit_start()


def test_vectors_without_decay(make_brain: MakeBrain) -> None:
    brain = make_brain()
    brain.remove_vector_weight_decay = True
    brain.init_optimizers()
    for optimizer in brain.optimizers_dict.values():
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert decays == [0.0, 0.001]


def test_copies_of_utterances_have_their_targets() -> None:
    """Originals and then augmented copies of all of them, as `WithOriginals` makes them."""
    torch.manual_seed(0)
    log_probs_BTV, lengths_B = torch.randn(2, 9, 6).log_softmax(-1), torch.tensor([9, 7])
    batch = SimpleNamespace(tokens=(torch.tensor([[1, 2, 3], [5, 4, 0]]), torch.tensor([1, 2 / 3])))
    brain, both = SimpleNamespace(scores={}), (log_probs_BTV.repeat(2, 1, 1), lengths_B.repeat(2))
    objectives = FineTuningBrain.compute_objectives
    once = objectives(brain, (log_probs_BTV, lengths_B), batch, Stage.TRAIN)
    torch.testing.assert_close(objectives(brain, both, batch, Stage.TRAIN), once)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": 5}, "--warmup_steps has no effect without --training_steps"),
        ({"training_steps": 5, "annealing_factor": 0.5}, "--annealing_factor has no effect with"),
        ({"freeze_encoder": True, "encoder_lr": 1.0}, "--encoder_lr has no effect with --freeze"),
        ({"from_scratch": True}, "give --encoder_lr"),
        ({"lr": 0}, "--lr=0 must be above 0"),
    ],
)
def test_settings_without_effect_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_settings({**SETTINGS, **settings}, settings)


def test_settings_that_mean_something_pass() -> None:
    for settings in (
        {},
        {"from_scratch": True, "encoder_lr": 0.001},
        {"from_scratch": True, "freeze_encoder": True},
        {"training_steps": 5, "warmup_steps": 2},
    ):
        check_settings({**SETTINGS, **settings}, settings)
