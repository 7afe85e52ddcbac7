"""Front ends of wav2vec 2.0: convolutions without padding, on mel filterbanks or on samples.

An output stands for real input alone, so an utterance comes out the same alone and beside longer
ones, and its last frames are not what zeros after it make of them.

Shape suffixes: B batch, T frames, F input features, C channels, L samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.ctc import feature_lengths
from summarymixing_modules.models.describe import describable
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.ops.summary import masked

#: Kernels and strides that make 20 ms frames of filterbanks every 10 ms (arXiv 2407.13377), or of
#: samples at 16 kHz (arXiv 2006.11477, §4.2).
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mel": ((3, 3), (2, 1)),
    "waveform": ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
}


@describable
class ValidConvFrontEnd(nn.Module):
    """Blocks of Conv1d without bias and padding, LayerNorm and GELU; a LayerNorm at the end.

    (SpeechBrain's ``W2VLatentExtractor`` is this with other kernels and for samples only; it
    normalises a batch's samples with its padding, unless told not to.)

    Args:
        input_size: features F; 1 for samples.
        channels: C, of every convolution.
        kernel_sizes: of each.
        strides: of each.

    Attributes:
        output_size: C.
        receptive_field: inputs that an output stands for; shorter utterances have no output.

    Raises:
        InputError: not as many kernels as strides.
    """

    def __init__(
        self,
        input_size: int = 80,
        channels: int = 512,
        kernel_sizes: Sequence[int] = (3, 3),
        strides: Sequence[int] = (2, 1),
    ) -> None:
        super().__init__()
        if len(kernel_sizes) != len(strides):
            raise InputError(f"{len(kernel_sizes)} kernel_sizes and {len(strides)} strides.")
        self.output_size = channels
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        inputs = [input_size, *[channels] * (len(strides) - 1)]
        self.convs = nn.ModuleList(
            nn.Conv1d(size, channels, kernel, stride, bias=False)
            for size, kernel, stride in zip(inputs, kernel_sizes, strides, strict=True)
        )
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in self.convs)
        self.activation, self.norm = nn.GELU(), nn.LayerNorm(channels)
        self.receptive_field = 1
        for kernel, stride in zip(self.kernel_sizes[::-1], self.strides[::-1], strict=True):
            self.receptive_field = (self.receptive_field - 1) * stride + kernel

    @property
    def subsampling(self) -> int:
        """Inputs from one output to the next."""
        return math.prod(self.strides)

    def lengths(self, lengths_B: Tensor) -> Tensor:
        """Real outputs of so many real inputs."""
        for kernel, stride in zip(self.kernel_sizes, self.strides, strict=True):
            lengths_B = torch.div(lengths_B - kernel, stride, rounding_mode="floor") + 1
        return lengths_B.clamp(min=0)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Subsamples features or samples.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.

        Returns:
            y_BTC, at least one frame, zero where it is padding, and the real frames of each.
        """
        x_BTF = masked(x_BTF, lengths_to_padding(lengths_B, x_BTF.shape[1]))
        missing = max(0, self.receptive_field - x_BTF.shape[1])
        x_BCT = nn.functional.pad(x_BTF, (0, 0, 0, missing)).transpose(1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_BTC = self.activation(norm(conv(x_BCT).transpose(1, 2)))
            x_BCT = x_BTC.transpose(1, 2)
        lengths_B = self.lengths(lengths_B)
        return masked(self.norm(x_BTC), lengths_to_padding(lengths_B, x_BTC.shape[1])), lengths_B


class Waveform(nn.Module):
    """Samples as features: what takes the place of filterbanks before a front end for samples."""

    def forward(self, samples_BL: Tensor) -> Tensor:
        """(B, L) → (B, L, 1)."""
        return samples_BL[..., None]


def real_frames(compute_features: nn.Module, samples_B: Tensor, frames: int) -> Tensor:
    """Real frames of features.

    Args:
        compute_features: `Waveform`, or SpeechBrain's filterbanks.
        samples_B: real samples of each utterance.
        frames: frames of the padded batch.
    """
    if isinstance(compute_features, Waveform):
        return samples_B
    return feature_lengths(samples_B, int(compute_features.compute_STFT.hop_length), frames)  # type: ignore[union-attr, arg-type]


def features_for(frontend_type: str, filterbanks: nn.Module) -> nn.Module:
    """What a front end reads, for the key ``compute_features`` of a YAML file.

    Args:
        frontend_type: "mel" or "waveform".
        filterbanks: taken for "mel".

    Raises:
        InputError: another ``frontend_type``.
    """
    _check_type(frontend_type)
    return filterbanks if frontend_type == "mel" else Waveform()


def frontend_for(frontend_type: str, n_mels: int = 80, channels: int = 512) -> ValidConvFrontEnd:
    """The front end of a type.

    Args:
        frontend_type: "mel" or "waveform".
        n_mels: features that "mel" reads.
        channels: of every convolution.

    Raises:
        InputError: another ``frontend_type``.
    """
    _check_type(frontend_type)
    input_size = n_mels if frontend_type == "mel" else 1
    return ValidConvFrontEnd(input_size, channels, *CONVOLUTIONS[frontend_type])


def _check_type(frontend_type: str) -> None:
    if frontend_type not in CONVOLUTIONS:
        known = " or ".join(CONVOLUTIONS)
        raise InputError(f"unknown frontend_type {frontend_type!r}: give {known}.")
