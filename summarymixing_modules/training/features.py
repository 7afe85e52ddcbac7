"""From audio to normalised, augmented filterbanks: what every Brain on speech begins with.

Shape suffixes: B batch, T frames, F features, L samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import speechbrain as sb
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.models.normalization import inner_share
from summarymixing_modules.models.valid_frontend import real_frames
from summarymixing_modules.training.brain import SafeBrain

if TYPE_CHECKING:
    from summarymixing_modules.training.asr_data import AudioData
    from summarymixing_modules.training.config import Recipe


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

        Args:
            samples_BL: padded audio.
            share_B: share of real samples.
            stage: training augments.
        """
        train = stage == sb.Stage.TRAIN
        if train and self.option("wav_augment") is not None:
            samples_BL, share_B = self.hparams.wav_augment(samples_BL, share_B)
        with torch.no_grad():
            features_BTF = self.hparams.compute_features(samples_BL)
        frames = features_BTF.shape[1]
        samples_B = (share_B * samples_BL.shape[1]).round().long()
        lengths_B = real_frames(self.hparams.compute_features, samples_B, frames)
        shares_B = inner_share(lengths_B, frames)
        features_BTF = self.modules.normalize(features_BTF, shares_B, epoch=self.epoch)
        if train and self.option("fea_augment") is not None:
            features_BTF, _ = self.hparams.fea_augment(features_BTF, lengths_B / frames)
        return features_BTF, lengths_B

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
