"""A probe learns a weight for every layer of a frozen encoder, and a head on the weighted sum.

Source: MP3S (arXiv 2308.14456). Shape suffixes: B batch, T frames, D features, N hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from speechbrain.nnet.schedulers import LinearScheduler, NewBobScheduler
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import HiddenStates
from summarymixing_modules.training.part_rates import Part, PartRates, Schedule


class WeightedSum(nn.Module):
    """Softmax-weighted sum of hidden states; weights begin at 0, so as a mean (SUPERB, MP3S).

    Args:
        num_states: N.
    """

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_states))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Σ_n softmax(w)_n · h_n as (B, T, D).

        Args:
            states: N tensors (B, T, D).

        Raises:
            InputError: another number of states.
        """
        if len(states) != len(self.weights):
            raise InputError(
                f"there are {len(states)} hidden states and {len(self.weights)} layer weights: "
                "this probe belongs to an encoder with another number of layers."
            )
        shares_N = self.weights.softmax(dim=0)
        # One state at a time: stacked, they would take the memory of all of them again.
        total_BTD = shares_N[0] * states[0]
        for share, state_BTD in zip(shares_N[1:], states[1:], strict=True):
            total_BTD = total_BTD + share * state_BTD
        return total_BTD

    def shares(self) -> list[float]:
        """The softmax of the weights: what each layer contributes; they sum up to 1."""
        return self.weights.detach().softmax(dim=0).tolist()


class Probe(nn.Module):
    """A weighted sum and a head, both learnt.

    Args:
        num_states: N hidden states.
        head: (x_BTD, lengths_B in frames) → its output.
    """

    def __init__(self, num_states: int, head: nn.Module) -> None:
        super().__init__()
        self.weighted_sum = WeightedSum(num_states)
        self.head = head

    def forward(self, hidden: HiddenStates) -> Tensor:
        """The head's output for what the encoder made of a batch."""
        return self.head(self.weighted_sum(hidden.states), hidden.lengths_B)


def probe_rates(probe: Probe, hparams: Mapping[str, Any]) -> PartRates:
    """An Adam for the head, with ``weight_decay``, and one for the layer weights.

    After every epoch that lowers the validation loss by less than ``improvement_threshold``, their
    rates are multiplied by their annealing factors (NewBob); with ``final_lr``, the head's falls
    linearly instead.

    Args:
        probe: to be trained.
        hparams: the recipe's.
    """
    threshold = hparams["improvement_threshold"]
    lr, weights_lr = hparams["lr"], hparams["weights_lr"]
    head: Schedule = NewBobScheduler(lr, hparams["annealing_factor"], threshold)
    if hparams["final_lr"] is not None:
        head = LinearScheduler(lr, hparams["final_lr"], hparams["number_of_epochs"])
    weights = NewBobScheduler(weights_lr, hparams["weights_annealing_factor"], threshold)
    parts = {
        "head": Part(probe.head, lr, head, {"weight_decay": hparams["weight_decay"]}),
        "weights": Part(probe.weighted_sum, weights_lr, weights),
    }
    return PartRates(parts, torch.optim.Adam)
