"""A pre-trained encoder as a module: audio to the hidden states of every layer.

Shape suffixes: B batch, T frames, F features, L samples, D model features.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from summarymixing_modules.bundles.assemble import (
    AcousticModel,
    assemble_acoustics,
    check_number,
)
from summarymixing_modules.bundles.kinds import encoder_part
from summarymixing_modules.bundles.load import read_bundle
from summarymixing_modules.bundles.manifest import is_trusted_run
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import ARCHITECTURE, AcousticEncoder, HiddenStates
from summarymixing_modules.models.describe import build
from summarymixing_modules.models.features.frontend import RUNNING
from summarymixing_modules.models.features.valid_frontend import real_frames


class SSLEncoder(nn.Module):
    """Features, their normalisation and an encoder, ready for another task::

        encoder = SSLEncoder.from_bundle("my-encoder").freeze()
        hidden = encoder(samples_BL, lengths_B)  # lengths in samples
        hidden.states, hidden.output_BTD, hidden.lengths_B

    It moves, saves and is trained as any module. Features and their statistics never change; in
    eval mode there is no dropout and no layer drop.

    Args:
        acoustics: its model is an ``AcousticEncoder``.
        config: content of the bundle's ``config.json``.

    Attributes:
        encoder: the ``AcousticEncoder``, which is called with normalised features.
        frozen: see ``freeze``.
    """

    def __init__(self, acoustics: AcousticModel, config: Mapping[str, Any]) -> None:
        super().__init__()
        assert isinstance(acoustics.model, AcousticEncoder)
        self.encoder: AcousticEncoder = acoustics.model
        self.features, self.normalize = acoustics.features, acoustics.normalize
        self.acoustics, self.config, self.frozen = acoustics, config, False
        self.eval()

    @classmethod
    def from_bundle(cls, path: str | os.PathLike[str], **expected: Any) -> SSLEncoder:
        """The encoder of a bundle, in eval mode on the CPU. Nothing in the bundle is executed.

        Recognisers and classifiers have an encoder too.

        Args:
            path: folder of a bundle.
            **expected: what the encoder has to be, by the names in ``architecture``:
                ``attention_type="SummaryMixing", d_model=512``.

        Raises:
            InputError: no bundle, one that is damaged (see ``load_bundle``), or another encoder
                than expected.
        """
        return cls.from_path(path, False, **expected)

    @classmethod
    def from_run(cls, path: str | os.PathLike[str], **expected: Any) -> SSLEncoder:
        """The encoder of a training run of one's own: its hyperparams.yaml is run as code.

        Of its checkpoints, the best are taken.

        Args:
            path: output folder of the run.
            **expected: as in ``from_bundle``.

        Raises:
            InputError: no run, or see ``from_bundle``.
        """
        from summarymixing_modules.bundles.run import read_run  # imports the training code

        content = read_run(path)
        return cls._made((content.config, content.tensors), path, expected)

    @classmethod
    def from_path(
        cls, path: str | os.PathLike[str], trust_run: bool, **expected: Any
    ) -> SSLEncoder:
        """From a bundle, or, where whoever asks for it trusts it, from a run; for recipes.

        Raises:
            InputError: see ``from_bundle`` and ``from_run``; a run that is not trusted.
        """
        if is_trusted_run(Path(path), trust_run):
            return cls.from_run(path, **expected)
        config, tensors, _ = read_bundle(path)
        return cls._made((config, tensors), path, expected)

    @classmethod
    def _made(
        cls,
        content: tuple[dict[str, Any], dict[str, Tensor]],
        path: str | os.PathLike[str],
        expected: Mapping[str, Any],
    ) -> SSLEncoder:
        config, tensors = encoder_part(*content)
        check_number(config, "sample_rate")
        found = cls(assemble_acoustics(config, tensors), config)
        check_architecture(found.architecture, expected, str(path))
        return found

    @property
    def architecture(self) -> dict[str, Any]:
        """Names and sizes that tell encoders apart, for a Brain's ``architecture``."""
        return self.encoder.architecture()

    @property
    def sample_rate(self) -> int:
        """Of the audio, Hz."""
        return int(self.config["sample_rate"])

    @property
    def output_size(self) -> int:
        """Features D of the encoder's output."""
        return self.encoder.encoder_size

    def forward(self, samples_BL: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes utterances.

        Args:
            samples_BL: padded audio at ``sample_rate``.
            lengths_B: real samples of each, whole numbers.

        Raises:
            InputError: lengths that are no numbers of samples, such as SpeechBrain's shares.
        """
        _check_lengths(samples_BL, lengths_B)
        with torch.no_grad():
            features_BTF, frames_B = self.acoustics.acoustic_features(samples_BL, lengths_B)
        return self.encoder.hidden_states(features_BTF, frames_B)

    def frames(self, samples_N: Tensor) -> Tensor:
        """Frames of the hidden states for numbers of samples."""
        features_N = real_frames(self.features, samples_N, RUNNING)
        return self.encoder.frontend.lengths(features_N)  # type: ignore[operator]

    def freeze(self) -> SSLEncoder:
        """Takes the weights out of training, for good: no gradients, and eval mode always."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> SSLEncoder:
        """As any module's; features always stay in eval mode, a frozen encoder too."""
        super().train(mode and not self.frozen)
        self.features.eval()
        return self

    def untrained_copy(self) -> SSLEncoder:
        """The same architecture with weights drawn anew: what training from scratch begins with.

        Features and statistics are kept.
        """
        model = build(self.config["model"]).eval()
        features, normalize = copy.deepcopy(self.features), copy.deepcopy(self.normalize)
        fresh = SSLEncoder(AcousticModel(model, features, normalize), self.config)
        return fresh.to(next(self.parameters()).device)


def check_architecture(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Refuses another encoder than expected.

    Args:
        found: of the encoder.
        expected: some of its keys.
        what: where the encoder comes from, for the message.

    Raises:
        InputError: names both; or a key that no architecture has.
    """
    known = (*ARCHITECTURE, "mode")
    unknown = [key for key in expected if key not in known]
    if unknown:
        raise InputError(
            f"an encoder's architecture has no {', '.join(unknown)}, only {', '.join(known)}."
        )
    different = [key for key, value in expected.items() if found.get(key) != value]
    if different:
        has = ", ".join(f"{key} {found.get(key)}" for key in different)
        wants = ", ".join(f"{key} {expected[key]}" for key in different)
        raise InputError(
            f"the encoder of {what} has {has}, but {wants} is expected: "
            "give the encoder that was meant, or expect this one."
        )


def _check_lengths(samples_BL: Tensor, lengths_B: Tensor) -> None:
    """Raises InputError unless the lengths are numbers of real samples."""
    if samples_BL.dim() != 2 or lengths_B.shape != samples_BL.shape[:1]:
        raise InputError(
            f"samples of shape {tuple(samples_BL.shape)} and lengths of shape "
            f"{tuple(lengths_B.shape)}: give (B, L) and (B,)."
        )
    if lengths_B.is_floating_point() or lengths_B.dtype == torch.bool:
        raise InputError(
            f"lengths_B are {lengths_B.dtype}: give real samples as whole numbers. SpeechBrain's "
            "batches hold shares: (share_B * samples_BL.shape[1]).round().long()."
        )
    if bool(((lengths_B < 1) | (lengths_B > samples_BL.shape[1])).any()):
        raise InputError(
            f"lengths_B are {lengths_B.tolist()}: give the real samples of each utterance, from 1 "
            f"to {samples_BL.shape[1]}."
        )
