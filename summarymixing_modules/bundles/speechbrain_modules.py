"""What SpeechBrain's ``EncoderASR``, ``EncoderDecoderASR`` and ``StreamingASR`` make of a bundle.

They build these classes from the YAML files that `speechbrain_files` writes.

Shape suffixes: B batch, T frames, D encoder features, L samples, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from speechbrain.utils.checkpoints import mark_as_transfer, register_checkpoint_hooks
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.bundles.assemble import AcousticModel, assemble_acoustics
from summarymixing_modules.bundles.load import TOKENIZERS, read_tensors
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import AttentionCTCModel, CTCModel, TransducerModel
from summarymixing_modules.models.asr.attention_search import make_searcher
from summarymixing_modules.streaming.recognizer import RecognizerState, StreamingRecognizer


@register_checkpoint_hooks
class BundleEncoder(torch.nn.Module):
    """Audio to what SpeechBrain decodes: log-probabilities of CTC, or the encoder's output.

    Args:
        model: description, see ``models.describe``.
        features: settings of the filterbanks.
        normalize: settings of their normalisation.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        features: Mapping[str, Any],
        normalize: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.config = {"model": model, "features": features, "normalize": normalize}
        self._acoustics: AcousticModel | None = None

    @mark_as_transfer
    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Builds the model and fills in the weights of a bundle; SpeechBrain's Pretrainer calls it.

        Raises:
            InputError: not the weights of this model.
        """
        tensors = read_tensors(Path(path), Path(path).read_bytes())
        self._acoustics = assemble_acoustics(self.config, tensors)
        self.model = self._acoustics.model  # registered here, so that it moves with this module

    @property
    def acoustics(self) -> AcousticModel:
        """The model with its features, on the device of this module.

        Raises:
            InputError: the weights have not been loaded.
        """
        if self._acoustics is None:
            raise InputError("no weights: SpeechBrain's Pretrainer has to load them.")
        self._acoustics.to(next(self._acoustics.model.parameters()).device)
        return self._acoustics

    def forward(self, samples_BL: Tensor, share_B: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) of a CTC model, encoder output (B, T, D) of others.

        Args:
            samples_BL: padded audio.
            share_B: share of real samples.

        Raises:
            InputError: the weights have not been loaded.
        """
        lengths_B = (share_B * samples_BL.shape[1]).round().long()
        features_BTF, frames_B = self.acoustics.acoustic_features(samples_BL, lengths_B)
        if isinstance(self.model, CTCModel):
            return self.model(features_BTF, frames_B)[0]
        return self.model.encode(features_BTF, frames_B)[0]  # type: ignore[operator]


class BundleDecoder(torch.nn.Module):
    """The decoder of ``EncoderDecoderASR``: greedy for transducers, else a joint beam search.

    Args:
        encoder: holds the model.
        beam_size, ctc_weight: of the beam search.
    """

    def __init__(self, encoder: BundleEncoder, beam_size: int = 10, ctc_weight: float = 0.4):
        super().__init__()
        self._encoder = [encoder]  # a list: its weights are not registered twice
        self.beam_size, self.ctc_weight = beam_size, ctc_weight

    def forward(
        self, encoded_BTD: Tensor, share_B: Tensor
    ) -> tuple[list[list[int]], None, None, None]:
        """Tokens of each utterance, in the place where SpeechBrain's searchers have them.

        Args:
            encoded_BTD: output of the encoder.
            share_B: share of real frames.
        """
        model = self._encoder[0].model
        if isinstance(model, TransducerModel):
            frames_B = (share_B * encoded_BTD.shape[1]).ceil().long()
            return model.greedy(encoded_BTD, frames_B), None, None, None
        assert isinstance(model, AttentionCTCModel)
        searcher = make_searcher(model, self.beam_size, self.ctc_weight)
        return searcher(encoded_BTD.float(), share_B)[0], None, None, None


@register_checkpoint_hooks
class BundleTokenizer:
    """The tokenizer of a bundle with SpeechBrain's ``decode_ids``.

    Args:
        kind: "characters" or "sentencepiece".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.tokenizer: Tokenizer | None = None

    @mark_as_transfer
    def load_table(self, path: str | os.PathLike[str]) -> None:
        """Reads the tokenizer's file; SpeechBrain's Pretrainer calls it."""
        self.tokenizer = TOKENIZERS[self.kind][0](Path(path))

    def decode_ids(self, indices: list[int]) -> str:
        """Text of tokens."""
        assert self.tokenizer is not None
        return self.tokenizer.decode([int(index) for index in indices]).strip()


@dataclass
class StreamContext:
    """What ``StreamingASR`` hands from chunk to chunk: SpeechBrain's contexts are changed in place.

    Attributes:
        recognizer: with the chunk sizes asked for.
        state: None before the first samples.
    """

    recognizer: StreamingRecognizer
    state: RecognizerState | None = None


class BundleStream(torch.nn.Module):
    """All of ``StreamingASR``: its ``enc``, and the functions that its YAML file names.

    SpeechBrain's chunks of audio are passed through as they are, ``enc`` turns them into texts, and
    the stages after it hand those on. A stream ends with silence of one chunk instead of its true
    end, as SpeechBrain's streams do.

    Args:
        encoder: holds the model.
        tokenizer: of the model.
    """

    def __init__(self, encoder: BundleEncoder, tokenizer: BundleTokenizer) -> None:
        super().__init__()
        self.encoder = encoder
        self._tokenizer = tokenizer
        self.extractor = _SampleExtractor(encoder)

    def make_streaming_context(self, dynchunktrain_config: DynChunkTrainConfig) -> StreamContext:
        """A new stream.

        Raises:
            InputError: the model cannot stream; names what and the remedy.
        """
        parts, tokenizer = self.encoder.acoustics, self._tokenizer.tokenizer
        assert tokenizer is not None
        recognizer = StreamingRecognizer(
            parts.model,  # type: ignore[arg-type]
            parts.features,
            parts.normalize,
            tokenizer,
            dynchunktrain_config.chunk_size,
            dynchunktrain_config.left_context_size,
        )
        return StreamContext(recognizer)

    def forward_streaming(self, samples_BL: Tensor, context: StreamContext) -> list[str]:
        """What the next samples of each stream complete, as text."""
        if context.state is None:
            context.state = context.recognizer.start(len(samples_BL))
        texts, context.state = context.recognizer.accept(samples_BL, context.state)
        return texts


class _SampleExtractor:
    """In the place of SpeechBrain's streaming features: hands samples on."""

    def __init__(self, encoder: BundleEncoder) -> None:
        self._encoder = encoder

    @property
    def properties(self) -> SimpleNamespace:
        """With the ``stride`` for which SpeechBrain's chunks, of (stride - 1) · chunk_size samples,
        are ours."""
        parts = self._encoder.acoustics
        frame_samples = parts.hop_length * parts.model.frontend.subsampling  # type: ignore
        return SimpleNamespace(stride=frame_samples + 1)

    def make_streaming_context(self) -> None:
        """It remembers nothing."""

    def get_recommended_final_chunk_count(self, frames_per_chunk: int) -> int:
        """One: more than the look-ahead of features and front end."""
        del frames_per_chunk
        return 1

    def __call__(self, samples_BL: Tensor, context: None, lengths: Tensor) -> Tensor:
        """The samples."""
        del context, lengths
        return samples_BL


def no_context() -> None:
    """The context of stages that remember nothing."""


def pass_on(texts: list[str], context: None) -> list[str]:
    """The decoding stage: ``BundleStream`` has decoded already."""
    del context
    return texts


def text_of(tokenizer: BundleTokenizer, text: str, context: None) -> str:
    """The detokenizing stage, likewise."""
    del tokenizer, context
    return text
