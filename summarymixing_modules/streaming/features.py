"""Filterbanks of a stream of samples, equal to those of the whole utterance.

SpeechBrain's short-time Fourier transform is centred: frame t looks at n_fft samples around sample
t · hop, with zeros outside the utterance. So a frame is known n_fft / 2 samples after its centre.
(SpeechBrain's ``StreamingFeatureWrapper`` gives other frames than the offline features: it starts
before the first sample and says the frame between two chunks twice.)

Shape suffixes: B batch, T frames, F mel bands, L samples.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.errors import InputError


class LocalFbank(Fbank):
    """SpeechBrain's log mel filterbanks, each frame of which depends on its own samples only.

    SpeechBrain raises what is 80 dB below the loudest band of the utterance to that level. Nobody
    knows the loudest band of an utterance before its end, so models that stream must be trained
    without this floor. The fixed one of −100 dB stays.

    Args:
        **options: those of ``Fbank``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.compute_fbanks.top_db = math.inf


class FeatureState(NamedTuple):
    """What the features of a stream remember; of fixed size.

    Attributes:
        samples_BL: the last samples, those that a coming frame looks at.
        seen: how many samples there were.
        made: how many frames.
    """

    samples_BL: Tensor
    seen: int
    made: int


class StreamingFeatures:
    """Normalised filterbanks of a stream.

    Args:
        compute_features: ``LocalFbank`` (``Fbank`` without its floor).
        normalize: SpeechBrain's input normalisation with global statistics, already estimated.

    Raises:
        InputError: features or statistics that need the whole utterance; names the key of the YAML
            file and the remedy.
    """

    def __init__(self, compute_features: Fbank, normalize: InputNormalization) -> None:
        check_features(compute_features)
        check_normalization(normalize)
        self.compute_features, self.normalize = compute_features, normalize
        stft = compute_features.compute_STFT
        self.hop, self.half = int(stft.hop_length), stft.n_fft // 2
        # Frames at the edge of a piece that see the zeros beyond it.
        self._margin = -(-self.half // self.hop)

    @property
    def look_ahead(self) -> int:
        """Samples after the hop of a frame that it needs."""
        return self.half - self.hop

    def initial_state(self, batch_size: int, device: torch.device | str) -> FeatureState:
        """State before the first sample: the zeros that offline features see there."""
        return FeatureState(torch.zeros(batch_size, self._margin * self.hop, device=device), 0, 0)

    @torch.no_grad()
    def step(
        self, samples_BL: Tensor, state: FeatureState, final: bool = False
    ) -> tuple[Tensor, FeatureState]:
        """The frames that can be known by now.

        Args:
            samples_BL: the next samples, any number, also none.
            state: from ``initial_state`` or the step before. It is not changed.
            final: no sample comes after these.

        Returns:
            normalised features (B, T, F), and the next state.
        """
        seen = state.seen + samples_BL.shape[1]
        known_BL = torch.cat([state.samples_BL, samples_BL], dim=1)
        ready = max(0, (known_BL.shape[1] - self.half) // self.hop - self._margin + 1)
        if final:
            ready = frames_of(seen, self.hop) - state.made
            missing = (ready - 1 + self._margin) * self.hop + self.half - known_BL.shape[1]
            known_BL = F.pad(known_BL, (0, max(0, missing)))
        if ready == 0:
            bands = self.compute_features.compute_fbanks.n_mels
            empty_BTF = known_BL.new_zeros(len(known_BL), 0, bands)
            return empty_BTF, FeatureState(known_BL, seen, state.made)
        features_BTF = self.compute_features(known_BL)[:, self._margin :][:, :ready]
        # A copy: a view would keep all the samples.
        rest_BL = known_BL[:, ready * self.hop :].clone()
        return self._normalised(features_BTF), FeatureState(rest_BL, seen, state.made + ready)

    def _normalised(self, features_BTF: Tensor) -> Tensor:
        mean_F, std_F = self.normalize.glob_mean, self.normalize.glob_std
        mean_F, std_F = mean_F.to(features_BTF.device), std_F.to(features_BTF.device)
        return (features_BTF - mean_F) / std_F.clamp(min=self.normalize.epsilon)


def frames_of(samples: int, hop: int) -> int:
    """Frames of an utterance of so many samples: one for every started hop; none of nothing."""
    return samples // hop + 1 if samples else 0


def check_features(compute_features: Fbank) -> None:
    """Refuses features that need the whole utterance.

    Raises:
        InputError: names what is wrong and the remedy.
    """
    if not isinstance(compute_features, Fbank) or not compute_features.compute_STFT.center:
        raise InputError(
            f"compute_features is a {type(compute_features).__name__}: streaming needs filterbanks "
            "of centred windows, such as !new:summarymixing_modules.streaming.LocalFbank."
        )
    if compute_features.deltas or compute_features.context:
        raise InputError("compute_features: streaming needs deltas: False and context: False.")
    if math.isfinite(compute_features.compute_fbanks.top_db):
        raise InputError(
            "compute_features raises quiet bands relative to the loudest of the whole utterance, "
            "which a stream does not know: train with compute_features: "
            "!new:summarymixing_modules.streaming.LocalFbank in the YAML file."
        )


def check_normalization(normalize: InputNormalization) -> None:
    """Refuses statistics that need the whole utterance, or that were never estimated.

    Raises:
        InputError: names the key of the YAML file and the remedy.
    """
    if normalize.norm_type != "global" or not normalize.std_norm:
        raise InputError(
            f"norm_type is {normalize.norm_type!r}, whose statistics are known at the end of an "
            "utterance only: streaming needs norm_type: global (under features: in the YAML file) "
            "with std_norm: True, and a model trained with it."
        )
    if normalize.count == 0:
        raise InputError(
            "normalize has no statistics: load the checkpoint of a trained model first "
            "(norm_type: global estimates them in the first epochs)."
        )
