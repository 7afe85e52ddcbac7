"""Encoders to be probed: from whatever folder they are in, frozen for good or tuned.

Shape suffixes: B batch, L samples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from summarymixing_modules.bundles.export import export_tuned
from summarymixing_modules.bundles.ssl_encoder import SSLEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import HiddenStates
from summarymixing_modules.probing.huggingface import HuggingFaceEncoder

#: Where a run that tuned its encoder leaves it, in its output_folder.
TUNED = "encoder"


class SpeechEncoder(Protocol):
    """What can be probed: a module that maps audio to the hidden states of all its layers."""

    sample_rate: int

    def __call__(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes padded audio; ``lengths_B`` are numbers of real samples."""

    def frames(self, samples_N: Tensor) -> Tensor:
        """Frames of the hidden states for numbers of samples."""


class ProbedEncoder(nn.Module):
    """An encoder under a probe; `FrozenEncoder` or `TunedEncoder`.

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
        self.encoder = encoder
        self.eval()
        sizes = [state.shape[-1] for state in self._states_of_a_second()]
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

    def forward(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes padded audio; ``lengths_B`` are numbers of real samples."""
        return self.encoder(samples_BL, lengths_B)

    def frames(self, samples_N: Tensor) -> Tensor:
        """Frames of the hidden states for numbers of samples."""
        return self.encoder.frames(samples_N)  # type: ignore[operator]

    def digest(self) -> str:
        """A hash of all weights and buffers, to tell encoders apart (the first 16 digits)."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return total.hexdigest()[:16]

    def _states_of_a_second(self) -> tuple[Tensor, ...]:
        second_BL = torch.linspace(-0.1, 0.1, self.sample_rate)[None]
        return self(second_BL, torch.tensor([second_BL.shape[1]])).states


class FrozenEncoder(ProbedEncoder):
    """An encoder that nothing changes: eval mode always, no gradients, no graph."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder.requires_grad_(False))

    @torch.no_grad()
    def forward(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes padded audio; ``lengths_B`` are numbers of real samples."""
        return super().forward(samples_BL, lengths_B)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in eval mode, whatever is asked for: dropout and statistics would change it."""
        super().train(False)
        return self


class TunedEncoder(ProbedEncoder):
    """An encoder that is trained with its probe, dropout as in its own training.

    What the hidden states do not depend on (a final norm, the embedding of masks) is taken out of
    training: it would have no gradient, which DDP takes for a fault. No layer is dropped, so that
    there is a state of every layer.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        weights = list(encoder.parameters())
        total = sum(state.sum() for state in self._states_of_a_second())
        gradients = torch.autograd.grad(total, weights, allow_unused=True)  # type: ignore[arg-type]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.requires_grad_(gradient is not None)

    def save(self, folder: Path, task: str, result: Mapping[str, Any]) -> None:
        """Writes what an ``--encoder`` can be: a bundle, or a folder of Hugging Face.

        Args:
            folder: for it; a bundle that is there is replaced.
            task: that it was tuned on.
            result: content of the run's result.json.
        """
        if isinstance(self.encoder, HuggingFaceEncoder):
            self.encoder.save(folder)
        else:
            assert isinstance(self.encoder, SSLEncoder)
            export_tuned(self.encoder, folder, task, result)


def encode(encoder: nn.Module, batch: Any) -> HiddenStates:
    """The hidden states of a batch, whose ``sig`` is padded audio and the shares that are real.

    Args:
        encoder: a `ProbedEncoder`; DDP may have wrapped it.
        batch: on the encoder's device.
    """
    samples_BL, share_B = batch.sig
    return encoder(samples_BL, (share_B * samples_BL.shape[1]).round().long())


def frozen_encoder(
    path: str | os.PathLike[str], sample_rate: int = 16000, trust_run: bool = False
) -> FrozenEncoder:
    """A pre-trained encoder that nothing changes any more.

    Args:
        path: folder of a bundle or output folder of a run of this project, or a local folder with
            a speech encoder of Hugging Face's transformers; of a run that tuned an encoder, the
            tuned one. Nothing is downloaded.
        sample_rate: of the audio that it will get, Hz.
        trust_run: it may be a run, whose hyperparams.yaml is run as code.

    Raises:
        InputError: no such folder, another sample rate, or see `SSLEncoder.from_path` and
            `HuggingFaceEncoder`.
    """
    return FrozenEncoder(_load(path, sample_rate, trust_run))


def tuned_encoder(
    path: str | os.PathLike[str], sample_rate: int = 16000, trust_run: bool = False
) -> TunedEncoder:
    """A pre-trained encoder to be trained further; arguments and errors as of `frozen_encoder`."""
    return TunedEncoder(_load(path, sample_rate, trust_run))


def _load(
    path: str | os.PathLike[str], sample_rate: int, trust_run: bool
) -> SSLEncoder | HuggingFaceEncoder:
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(
            f"--encoder={path}: no such folder. Give a bundle (summarymixing export), the output "
            "folder of a pre-training, or a local folder with a model of Hugging Face."
        )
    if (folder / TUNED).is_dir():
        folder = folder / TUNED
    encoder: SSLEncoder | HuggingFaceEncoder
    if is_huggingface(folder):
        encoder = HuggingFaceEncoder(folder)
    else:
        encoder = SSLEncoder.from_path(folder, trust_run)
    if encoder.sample_rate != sample_rate:
        raise InputError(
            f"--encoder={path} was trained on audio at {encoder.sample_rate} Hz, and gets "
            f"--sample_rate={sample_rate}: probe it with audio of its own rate."
        )
    return encoder


def unchanged(before: str, after: str) -> None:
    """Check that training has left a frozen encoder as it was.

    Args:
        before: its digest before training.
        after: its digest after it.

    Raises:
        RuntimeError: it has changed, which would make the result worthless.
    """
    if before != after:
        raise RuntimeError("the frozen encoder has changed in training: do not use this result.")


def is_huggingface(folder: Path) -> bool:
    """Whether a folder holds a model of transformers: its config.json names a model type."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config
