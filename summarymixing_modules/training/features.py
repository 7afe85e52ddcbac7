"""From audio to normalised, augmented filterbanks: what every Brain on speech begins with.

Shape suffixes: B batch, T frames, F features, L samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import speechbrain as sb
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.features.normalization import inner_share
from summarymixing_modules.models.features.valid_frontend import real_frames
from summarymixing_modules.training.augmentation import absolute_lengths
from summarymixing_modules.training.brain import SafeBrain

if TYPE_CHECKING:
    from summarymixing_modules.training.data.audio import AudioData
    from summarymixing_modules.training.recipe.config import Recipe


class FeatureBrain(SafeBrain):
    """Base of Brains that read ``batch.sig``.

    ``modules`` holds ``normalize`` (SpeechBrain's ``InputNormalization``). Keys of ``hparams``:
    those of ``known_keys``.
    """

    known_keys: ClassVar[frozenset[str]] = SafeBrain.known_keys | {
        "compute_features",  # samples → filterbanks, or the samples themselves
        "wav_augment",  # on samples; null for none
        "fea_augment",  # on filterbanks; null for none
        "dynchunktrain_config_sampler",  # draws chunk settings; null for full context
        "modules",  # read by from_recipe, as are the next two
        "opt_class",
        "checkpointer",
        "epoch_counter",
        "encoder_module",
    }
    architecture_keys = (*SafeBrain.architecture_keys, "encoder_module")

    @classmethod
    def from_recipe(cls, recipe: Recipe, **more: Any) -> Self:
        """The Brain of a recipe.

        Args:
            recipe: with the keys ``modules``, ``opt_class`` and ``checkpointer``.
            **more: further keys, or other values.
        """
        hparams = {**recipe.hparams, **more}
        return cls(
            hparams["modules"],
            hparams["opt_class"],
            hparams,
            recipe.run_opts,
            hparams["checkpointer"],
        )

    def fit_on(self, data: AudioData) -> None:
        """`fit`: as many epochs as ``epoch_counter`` says, each with a validation at its end."""
        self.fit(
            self.hparams.epoch_counter,
            data.datasets.train,
            data.datasets.valid,
            train_loader_kwargs=data.train_loader,
            valid_loader_kwargs=data.eval_loader,
        )

    def features(
        self, samples_BL: Tensor, share_B: Tensor, stage: sb.Stage
    ) -> tuple[Tensor, Tensor]:
        """Normalised, in training augmented, features (B, T, F) and their lengths in frames.

        Padded frames are zero. All of it is computed in float32 and without gradients, whatever
        ``precision`` is: in bf16, resampling alone moves log mels by half a decibel.

        Args:
            samples_BL: padded audio.
            share_B: share of real samples.
            stage: training augments.

        Raises:
            InputError: an augmentation makes other utterances than those of the batch.
        """
        samples_B = absolute_lengths(share_B, samples_BL.shape[1])
        with torch.no_grad(), torch.autocast(samples_BL.device.type, enabled=False):
            if stage == sb.Stage.TRAIN:
                samples_BL, samples_B = self._augmented("wav_augment", samples_BL, samples_B)
            features_BTF = self.hparams.compute_features(samples_BL)
            frames = features_BTF.shape[1]
            lengths_B = real_frames(self.hparams.compute_features, samples_B, frames)
            shares_B = inner_share(lengths_B, frames)
            features_BTF = self.modules.normalize(features_BTF, shares_B, epoch=self.epoch)
            # Normalization leaves padding as it was: near −50, where frames are near 0.
            features_BTF = _without_padding(features_BTF, lengths_B)
            if stage == sb.Stage.TRAIN:
                features_BTF, lengths_B = self._augmented("fea_augment", features_BTF, lengths_B)
        return features_BTF, lengths_B

    def _augmented(self, key: str, x: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (B, L) or features (B, T, F) and their lengths after the augmentation ``key``."""
        augment = self.option(key)
        if augment is None:
            return x, lengths_B
        augmented, share_B = augment(x, lengths_B / x.shape[1])
        if augmented.shape[0] != x.shape[0]:
            raise InputError(
                f"{key} makes {augmented.shape[0]} utterances of {x.shape[0]}, whose targets stay "
                "as they are: give its Augmenter concat_original: False, parallel_augment: False "
                "and repeat_augment: 1."
            )
        lengths_B = absolute_lengths(share_B, augmented.shape[1])
        return _without_padding(augmented, lengths_B), lengths_B

    def batch_frames(self, batch: Any) -> float:
        """Frames that the encoder reads of the audio, to one or two per utterance."""
        seconds, _ = self.batch_seconds(batch)
        subsampling = getattr(getattr(self.model, "frontend", None), "subsampling", 0)
        if not (seconds and subsampling):
            return 0.0
        filterbanks = getattr(self.option("compute_features"), "compute_STFT", None)
        hop = 1 if filterbanks is None else filterbanks.hop_length
        return seconds * self.hparams.sample_rate / (hop * subsampling)

    def chunk_config(self, stage: sb.Stage) -> DynChunkTrainConfig | None:
        """The chunk settings drawn for this batch; None = full context."""
        sampler = self.option("dynchunktrain_config_sampler")
        return None if sampler is None else sampler(stage)

    def option(self, key: str, default: Any = None) -> Any:
        """An optional key of the YAML file."""
        return getattr(self.hparams, key, default)


def _without_padding(x: Tensor, lengths_B: Tensor) -> Tensor:
    """Samples (B, L) or features (B, T, F), zero after their lengths."""
    padding = lengths_to_padding(lengths_B, x.shape[1])
    return x.masked_fill(padding.view(*padding.shape, *[1] * (x.ndim - 2)), 0.0)
