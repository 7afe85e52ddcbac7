"""Samples of running streams to encoder output, chunk by chunk.

The output equals the chunk-masked forward pass over the whole utterances, and with a causal encoder
the forward pass without chunks: features, front end and encoder see exactly what they see there.

Shape suffixes: B batch, T frames, D encoder features, L samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Chunks
from summarymixing_modules.models import CTCModel, TransducerModel
from summarymixing_modules.models.features.frontend import (
    RUNNING,
    ConvFrontEnd,
    FrontEndState,
    lengths_to_padding,
)
from summarymixing_modules.models.transformer_asr import StreamingContext
from summarymixing_modules.streaming.features import FeatureState, StreamingFeatures


class EncodedChunk(NamedTuple):
    """A chunk of encoder output.

    Attributes:
        encoded_BTD: at most ``chunk_size`` frames.
        padding_BT: True = past the end of that stream.
    """

    encoded_BTD: Tensor
    padding_BT: Tensor


@dataclass(frozen=True)
class EncoderState:
    """What is remembered of a batch of streams. Each is to be used once: ``context`` is changed.

    Attributes:
        features: last samples.
        frontend: last filterbanks.
        pending_BTD: output of the front end that fills no chunk yet.
        context: of the encoder.
        samples_B: samples of each stream that has ended, ``RUNNING`` for the others.
        frames: encoder frames so far.
        ended: the last samples have been given.
    """

    features: FeatureState
    frontend: FrontEndState
    pending_BTD: Tensor
    context: StreamingContext
    samples_B: Tensor
    frames: int = 0
    ended: bool = False


class StreamingEncoder:
    """Runs the features, front end and encoder of a model on streams.

    Args:
        model: its ``frontend`` and ``transformer`` are used. It is put into evaluation mode.
        compute_features, normalize: as for ``StreamingFeatures``.
        chunk_size: encoder frames of a chunk.
        left_context_size: chunks that a chunk sees to its left; None = all. A causal encoder has no
            chunks but single frames, and takes one only with chunk_size=1.

    Raises:
        InputError: a part of the model, or its features, cannot stream; names it and the remedy.
    """

    def __init__(
        self,
        model: CTCModel | TransducerModel,
        compute_features: Fbank,
        normalize: InputNormalization,
        chunk_size: int = 16,
        left_context_size: int | None = None,
    ) -> None:
        Chunks(chunk_size, left_context_size)  # checks them
        check_streams(model.transformer.encoder)
        if not isinstance(model.frontend, ConvFrontEnd):
            raise InputError(
                f"frontend is a {type(model.frontend).__name__}, which has no streaming form: use "
                "ConvFrontEnd1d or ConvFrontEnd2d."
            )
        self.features = StreamingFeatures(compute_features, normalize)
        self.frontend, self.transformer = model.frontend, model.transformer
        self.config = DynChunkTrainConfig(chunk_size, left_context_size)
        # Either may refuse it.
        self.frontend.initial_state(0)
        self.transformer.make_streaming_context(self.config)
        self.sample_rate = int(compute_features.compute_STFT.sample_rate)
        model.eval()

    @property
    def chunk_samples(self) -> int:
        """Samples that a chunk stands for."""
        return self.config.chunk_size * self.frontend.subsampling * self.features.hop

    @property
    def look_ahead_samples(self) -> int:
        """Samples after those of a chunk that it needs: half a window, and what convolutions see.

        The latency of a chunk's last frame is this; that of its first is a chunk more.
        """
        return self.frontend.look_ahead * self.features.hop + self.features.look_ahead

    @property
    def latency(self) -> float:
        """Seconds from the first sample of a chunk until it can be computed: chunk + look-ahead."""
        return (self.chunk_samples + self.look_ahead_samples) / self.sample_rate

    def start(self, batch_size: int = 1) -> EncoderState:
        """State of ``batch_size`` streams before their first sample."""
        weight = next(self.frontend.parameters())
        return EncoderState(
            self.features.initial_state(batch_size, weight.device),
            self.frontend.initial_state(batch_size, dtype=torch.float32),
            torch.zeros(batch_size, 0, self.frontend.output_size, device=weight.device),
            self.transformer.make_streaming_context(self.config),
            torch.full((batch_size,), RUNNING, device=weight.device),
        )

    @torch.no_grad()
    def accept(
        self,
        samples_BL: Tensor,
        state: EncoderState,
        lengths_B: Tensor | None = None,
        final: bool = False,
    ) -> tuple[list[EncodedChunk], EncoderState]:
        """Encodes what the next samples complete.

        Args:
            samples_BL: the next samples of every stream, any number, also none.
            state: from ``start`` or the call before; not to be used again.
            lengths_B: real samples of each stream in this piece; a stream with fewer than L has
                ended. None = all go on.
            final: no samples come after these, for no stream.

        Returns:
            the chunks that are complete, with ``final`` also the last, shorter one; and the next
            state.

        Raises:
            ValueError: wrong shapes, or samples after the end of a stream.
        """
        samples_BL, samples_B = self._admit(samples_BL, state, lengths_B, final)
        features_BTF, features = self.features.step(samples_BL, state.features, final)
        frames_B = self._feature_frames(samples_B)
        x_BTD, frontend = self.frontend.step(features_BTF, state.frontend, frames_B, final)
        frames_B = self.frontend.lengths(frames_B)
        pending_BTD, frames = torch.cat([state.pending_BTD, x_BTD], dim=1), state.frames
        chunks = []
        while pending_BTD.shape[1] >= (1 if final else self.config.chunk_size):
            chunk_BTD = pending_BTD[:, : self.config.chunk_size]
            padding_BT = lengths_to_padding(frames_B - frames, chunk_BTD.shape[1])
            chunks.append(self._encode(chunk_BTD, padding_BT, state.context))
            frames += chunk_BTD.shape[1]
            # A copy: a view would keep the chunk.
            pending_BTD = pending_BTD[:, self.config.chunk_size :].clone()
        return chunks, replace(
            state,
            features=features,
            frontend=frontend,
            pending_BTD=pending_BTD,
            samples_B=samples_B,
            frames=frames,
            ended=final,
        )

    def _admit(
        self, samples_BL: Tensor, state: EncoderState, lengths_B: Tensor | None, final: bool
    ) -> tuple[Tensor, Tensor]:
        """The samples without what is past the end of a stream, and the ended streams' lengths."""
        batch = len(state.samples_B)
        if samples_BL.dim() != 2 or len(samples_BL) != batch:
            raise ValueError(
                f"samples must be of shape ({batch}, L), one row for each stream of start("
                f"{batch}), not {tuple(samples_BL.shape)}."
            )
        if state.ended:
            raise ValueError("final=True has ended these streams: start() new ones.")
        samples_BL = samples_BL.to(state.samples_B.device, torch.float32)
        length = samples_BL.shape[1]
        if lengths_B is None:
            lengths_B = torch.where(state.samples_B == RUNNING, length, 0)
        lengths_B = lengths_B.to(state.samples_B.device)
        if lengths_B.shape != (batch,) or bool(((lengths_B < 0) | (lengths_B > length)).any()):
            raise ValueError(f"lengths_B must be {batch} numbers of 0 to {length} samples.")
        if bool((lengths_B[state.samples_B != RUNNING] > 0).any()):
            raise ValueError("a stream that has ended has got more samples: give it a length of 0.")
        ends_B = (state.samples_B == RUNNING) & ((lengths_B < length) | final)
        samples_B = torch.where(ends_B, state.features.seen + lengths_B, state.samples_B)
        padding_BL = lengths_to_padding(lengths_B, length)
        return samples_BL.masked_fill(padding_BL, 0.0), samples_B

    def _feature_frames(self, samples_B: Tensor) -> Tensor:
        """Filterbanks of each stream; ``RUNNING`` of those that go on."""
        frames_B = torch.div(samples_B, self.features.hop, rounding_mode="floor") + 1
        frames_B = torch.where(samples_B == 0, 0, frames_B)
        return torch.where(samples_B == RUNNING, RUNNING, frames_B)

    def _encode(self, x_BTD: Tensor, padding_BT: Tensor, context: StreamingContext) -> EncodedChunk:
        """One chunk through the encoder. ``encode_streaming`` takes no padding, so it is not it."""
        transformer = self.transformer
        x_BTD = transformer.embed(x_BTD, context.position)
        context.position += x_BTD.shape[1]
        assert isinstance(transformer.encoder, MixerEncoder)  # checked when this was made
        encoded_BTD, _ = transformer.encoder.forward_streaming(
            x_BTD, context.encoder_context, src_key_padding_mask=padding_BT
        )
        return EncodedChunk(encoded_BTD, padding_BT)


def check_streams(encoder: object) -> None:
    """Refuses encoders that cannot stream.

    Raises:
        InputError: names the encoder or mixer, and those that can.
    """
    if not isinstance(encoder, MixerEncoder):
        raise InputError(
            f"a {type(encoder).__name__} does not stream: use --encoder_module=conformer, "
            "branchformer or transformer."
        )
    for mixer in encoder.mixers:
        mixer.require("streaming", "a stream")
