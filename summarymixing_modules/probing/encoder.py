"""Encoders to be probed: from whatever folder they are in, and frozen for good.

Shape suffixes: B batch, L samples.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from summarymixing_modules.bundles.ssl_encoder import SSLEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import HiddenStates
from summarymixing_modules.probing.huggingface import HuggingFaceEncoder


class SpeechEncoder(Protocol):
    """What can be probed: a module that maps audio to the hidden states of all its layers."""

    sample_rate: int

    def __call__(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes padded audio; ``lengths_B`` are numbers of real samples."""

    def frames(self, samples_N: Tensor) -> Tensor:
        """Frames of the hidden states for numbers of samples."""


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

    def hidden(self, samples_BL: Tensor, share_B: Tensor) -> HiddenStates:
        """Encodes padded audio; ``share_B`` are shares of real samples, as batches have them."""
        return self(samples_BL, (share_B * samples_BL.shape[1]).round().long())

    def frames(self, samples_N: Tensor) -> Tensor:
        """Frames of the hidden states for numbers of samples."""
        return self.encoder.frames(samples_N)  # type: ignore[operator]

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


def frozen_encoder(
    path: str | os.PathLike[str], sample_rate: int = 16000, trust_run: bool = False
) -> FrozenEncoder:
    """A pre-trained encoder that nothing changes any more.

    Args:
        path: folder of a bundle or output folder of a run of this project, or a local folder with
            a speech encoder of Hugging Face's transformers. Nothing is downloaded.
        sample_rate: of the audio that it will get, Hz.
        trust_run: it may be a run, whose hyperparams.yaml is run as code.

    Raises:
        InputError: no such folder, another sample rate, or see `SSLEncoder.from_path` and
            `HuggingFaceEncoder`.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(
            f"--encoder={path}: no such folder. Give a bundle (summarymixing export), the output "
            "folder of a pre-training, or a local folder with a model of Hugging Face."
        )
    if is_huggingface(folder):
        encoder = FrozenEncoder(HuggingFaceEncoder(folder))
    else:
        encoder = FrozenEncoder(SSLEncoder.from_path(folder, trust_run).freeze())
    if encoder.sample_rate != sample_rate:
        raise InputError(
            f"--encoder={path} was trained on audio at {encoder.sample_rate} Hz, and gets "
            f"--sample_rate={sample_rate}: probe it with audio of its own rate."
        )
    return encoder


def unchanged(encoder: FrozenEncoder, digest: str) -> None:
    """Check that training has left the encoder as it was.

    Args:
        encoder: after training.
        digest: of before.

    Raises:
        RuntimeError: it has changed, which would make the result worthless.
    """
    if encoder.digest() != digest:
        raise RuntimeError("the frozen encoder has changed in training: do not use this result.")


def is_huggingface(folder: Path) -> bool:
    """Whether a folder holds a model of transformers: its config.json names a model type."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config
