"""From audio to normalised, augmented features: the part of a training in front of the model.

Shape suffixes: B batch, T frames, F features, L samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.features.normalization import inner_share
from summarymixing_modules.models.features.valid_frontend import real_frames
from summarymixing_modules.training.augmentation import absolute_lengths


class Features(nn.Module):
    """Waveform augmentation → features → normalisation → augmentation of the features.

    It augments in training mode only. All of it is computed in float32 and without gradients,
    whatever ``precision`` is: in bf16, resampling alone moves log mels by half a decibel.

    Args:
        compute_features: samples (B, L) → features (B, T, F), such as SpeechBrain's ``Fbank``.
        normalize: SpeechBrain's ``InputNormalization``.
        wav_augment: samples and their lengths, relative to the longest → the same; None for none.
        fea_augment: the same for features.
        augment_first: the features are augmented before they are normalised.
        copies: whoever calls repeats targets, should an augmentation make several of an utterance.
        surroundings: noise, rooms and other voices, after ``wav_augment``: likewise; applied in
            this order.
    """

    def __init__(
        self,
        compute_features: nn.Module,
        normalize: nn.Module,
        wav_augment: nn.Module | None = None,
        fea_augment: nn.Module | None = None,
        augment_first: bool = False,
        copies: bool = False,
        surroundings: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.surroundings = nn.ModuleList(surroundings)
        self.augment_first, self.copies = augment_first, copies
        self.compute_features, self.normalize = compute_features, normalize
        self.wav_augment, self.fea_augment = wav_augment, fea_augment

    def forward(self, samples_BL: Tensor, share_B: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Features (B, T, F), zero in padded frames, and their lengths in frames (B,).

        Args:
            samples_BL: padded audio.
            share_B: share of real samples.
            epoch: from 1; global statistics of the normalisation are frozen in one of them.

        Raises:
            InputError: an augmentation makes other utterances than those of the batch.
        """
        return self._features(samples_BL, share_B, epoch, with_clean=False)[:2]

    def heard_and_clean(
        self, samples_BL: Tensor, share_B: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `forward`, and, for targets, the features of the same audio without surroundings.

        These are None where there are no surroundings. Statistics are of what is heard.
        """
        return self._features(samples_BL, share_B, epoch, with_clean=True)

    def _features(
        self, samples_BL: Tensor, share_B: Tensor, epoch: int, with_clean: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `heard_and_clean`; who needs no clean features does not pay for them."""
        samples_B = absolute_lengths(share_B, samples_BL.shape[1])
        with torch.no_grad(), torch.autocast(samples_BL.device.type, enabled=False):
            samples_BL, samples_B = self._augmented(
                "wav_augment", self.wav_augment, samples_BL, samples_B
            )
            heard_BL, clean_BTF = samples_BL, None
            for module in self.surroundings:
                heard_BL, _ = self._augmented("surroundings", module, heard_BL, samples_B)
            heard_BTF, lengths_B = self._normalised(heard_BL, samples_B, epoch)
            surrounded = self.training and any(module.active for module in self.surroundings)
            if with_clean and surrounded:
                self.normalize.eval()  # takes no statistics of these
                clean_BTF, _ = self._normalised(samples_BL, samples_B, epoch)
                self.normalize.train()
            return heard_BTF, lengths_B, clean_BTF

    def _normalised(
        self, samples_BL: Tensor, samples_B: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Normalised and augmented features of audio, and their lengths."""
        features_BTF = self.compute_features(samples_BL)
        lengths_B = self.frames(samples_B, features_BTF.shape[1])
        if self.augment_first:
            features_BTF, lengths_B = self._augmented(
                "fea_augment", self.fea_augment, features_BTF, lengths_B
            )
        shares_B = inner_share(lengths_B, features_BTF.shape[1])
        features_BTF = self.normalize(features_BTF, shares_B, epoch=epoch)
        # Normalization leaves padding as it was: near −50, where frames are near 0.
        features_BTF = _without_padding(features_BTF, lengths_B)
        if self.augment_first:
            return features_BTF, lengths_B
        return self._augmented("fea_augment", self.fea_augment, features_BTF, lengths_B)

    def frames(self, samples_B: Tensor, longest: int) -> Tensor:
        """Real frames (B,) of numbers of samples (B,), at most ``longest``."""
        return real_frames(self.compute_features, samples_B, longest)

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next; 1 where features are the samples themselves."""
        filterbanks = getattr(self.compute_features, "compute_STFT", None)
        return 1 if filterbanks is None else int(filterbanks.hop_length)

    def _augmented(
        self, name: str, augment: nn.Module | None, x: Tensor, lengths_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Samples (B, L) or features (B, T, F) and their lengths after an augmentation."""
        if augment is None or not self.training:
            return x, lengths_B
        augmented, share_B = augment(x, lengths_B / x.shape[1])
        if augmented.shape[0] != x.shape[0] and not self.copies:
            raise InputError(
                f"{name} makes {augmented.shape[0]} utterances of {x.shape[0]}, whose targets stay "
                "as they are: give its Augmenter concat_original: False, parallel_augment: False "
                "and repeat_augment: 1."
            )
        lengths_B = absolute_lengths(share_B, augmented.shape[1])
        return _without_padding(augmented, lengths_B), lengths_B


def _without_padding(x: Tensor, lengths_B: Tensor) -> Tensor:
    """Samples (B, L) or features (B, T, F), zero after their lengths."""
    padding = lengths_to_padding(lengths_B, x.shape[1])
    return x.masked_fill(padding.view(*padding.shape, *[1] * (x.ndim - 2)), 0.0)
