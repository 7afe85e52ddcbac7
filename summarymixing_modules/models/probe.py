"""Probes: what the frozen representations of a pre-trained encoder hold (MP3S, arXiv 2308.14456).

A probe learns a weight for every layer and a head on the weighted sum; the encoder stays as it is.

Shape suffixes: B batch, T frames, D features, L samples, N layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import HiddenStates


class SpeechEncoder(Protocol):
    """What can be probed: a module that maps audio to the hidden states of all its layers."""

    sample_rate: int

    def __call__(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes padded audio; ``lengths_B`` are numbers of real samples."""


class FrozenEncoder(nn.Module):
    """An encoder that nothing changes: eval mode always, no gradients, no graph.

    Args:
        encoder: a `SpeechEncoder`.

    Attributes:
        num_states: N, the input of the first layer included.
        state_size: features D of a hidden state.

    Raises:
        InputError: its hidden states are not of one width, so they cannot be summed.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.eval()
        second_BL = torch.linspace(-0.1, 0.1, self.sample_rate)[None]
        hidden = self(second_BL, torch.tensor([second_BL.shape[1]]))
        sizes = [state.shape[-1] for state in hidden.states]
        if len(set(sizes)) > 1:
            raise InputError(
                f"the encoder's hidden states have {', '.join(map(str, sizes))} features: a "
                "weighted sum needs layers of one width. Probe another encoder."
            )
        self.num_states, self.state_size = len(sizes), sizes[0]

    @property
    def sample_rate(self) -> int:
        """Of the audio, Hz."""
        return int(self.encoder.sample_rate)  # type: ignore[arg-type]

    @torch.no_grad()
    def forward(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes padded audio; ``lengths_B`` are numbers of real samples."""
        return self.encoder(samples_BL, lengths_B)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in eval mode, whatever is asked for: dropout and statistics would change it."""
        super().train(False)
        return self

    def digest(self) -> str:
        """A hash of all weights and buffers, to tell encoders apart (the first 16 digits)."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return total.hexdigest()[:16]


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
