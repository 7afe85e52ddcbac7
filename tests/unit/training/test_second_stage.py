"""A second optimizer after some epochs: the steps of a plain loop, and none where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import speechbrain as sb
import torch
from speechbrain.nnet.schedulers import NoamScheduler
from speechbrain.utils.epoch_loop import EpochCounter

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.part_rates import PartRates
from summarymixing_modules.training.recipe.consistency import check_together
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer

DATA = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
SGD = {"lr": 0.01, "momentum": 0.9, "nesterov": True}
ADAM = {"lr": 0.1, "weight_decay": 0.1}


class Brain(SafeBrain):
    """One layer, trained towards zero."""

    def compute_forward(self, batch: torch.Tensor, stage: sb.Stage) -> torch.Tensor:
        return self.modules.layer(batch)

    def compute_objectives(
        self, predictions: torch.Tensor, batch: torch.Tensor, stage: sb.Stage
    ) -> torch.Tensor:
        return predictions.square().mean()


def make(folder: Path, epochs: int, first: int | None) -> Brain:
    torch.manual_seed(0)
    layer, counter = torch.nn.Linear(3, 3), EpochCounter(epochs)
    hparams: dict[str, Any] = {
        "output_folder": folder,
        "epoch_counter": counter,
        "seed": 1,
        "curve_interval": 1,
    }
    hparams |= {"lr_scheduler": NoamScheduler(0.1, 3), "second_stage_after": first}
    return Brain(
        {"layer": layer},
        lambda parameters: torch.optim.AdamW(parameters, **ADAM),
        hparams | {"second_opt_class": lambda parameters: torch.optim.SGD(parameters, **SGD)},
        {"device": "cpu", "noprogressbar": True},
        AtomicCheckpointer(folder / "save", {"layer": layer, "counter": counter}),
    )


def fit(brain: Brain) -> Brain:
    loader = {"batch_size": 2}
    brain.fit(brain.hparams.epoch_counter, DATA, DATA, None, loader, loader)
    return brain


def by_hand(epochs: int, first: int) -> torch.nn.Linear:
    """AdamW by Noam's rates, then SGD at one rate, in a plain loop; 4 steps an epoch."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    adam = torch.optim.AdamW(layer.parameters(), **ADAM)
    sgd, noam = torch.optim.SGD(layer.parameters(), **SGD), NoamScheduler(0.1, 3)
    for epoch in range(epochs):
        optimizer = adam if epoch < first else sgd
        for batch in DATA.split(2):
            layer(batch).square().mean().backward()
            if optimizer is adam:
                noam(adam)
            optimizer.step()
            optimizer.zero_grad()
    return layer


@pytest.mark.parametrize("first", [1, 2])
def test_steps_are_those_of_a_plain_loop(first: int, tmp_path: Path) -> None:
    """Also where the training is stopped in the first stage, or at its end, and goes on."""
    want = by_hand(3, first)
    for name, stops in (("whole", [3]), ("stopped", [1, 2, 3])):
        for epochs in stops:
            brain = fit(make(tmp_path / name, epochs, first))
        got = brain.modules.layer
        torch.testing.assert_close(got.state_dict(), want.state_dict(), rtol=0, atol=0)
        rates = [epoch["lr"] for epoch in brain.history.epochs]
        assert (rates[first:], brain.optimizer_step) == ([0.01] * (3 - first), 12)
        assert 0.01 not in rates[:first] and len(brain.history.epochs) == 3


def test_one_that_never_begins_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for epochs, told in ((3, False), (2, True)):
        check_together({"second_stage_after": 2, "number_of_epochs": epochs}, [])
        assert ("--second_stage_after=2 is not below" in caplog.text) == told


def test_moments_of_one_optimizer_are_kept(tmp_path: Path) -> None:
    brain = fit(make(tmp_path, 2, 1))
    first, second = brain.optimizers_dict.values()
    assert not first.state and len(second.state) == 2


def test_without_it_there_is_one_optimizer(tmp_path: Path) -> None:
    brain = fit(make(tmp_path, 1, None))
    assert brain.second_stage is None and len(brain.optimizers_dict) == 1
    assert "second_stage_optimizer" not in brain.checkpointer.recoverables


def test_a_run_that_began_without_it_goes_on_with_it(tmp_path: Path) -> None:
    fit(make(tmp_path, 1, None))
    got = fit(make(tmp_path, 2, 1)).modules.layer.state_dict()
    torch.testing.assert_close(got, by_hand(2, 1).state_dict(), rtol=0, atol=0)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="name second_stage.yaml among the bases"):
        SafeBrain(hparams={"second_stage_after": 1})

    class Parts(SafeBrain):
        def make_rates(self) -> PartRates:
            return PartRates({}, torch.optim.SGD)

    with pytest.raises(InputError, match="--second_stage_after=1: here parts of the model"):
        Parts(hparams={"second_stage_after": 1, "second_opt_class": torch.optim.SGD})
