"""SpeechBrain's TransformerASR with our encoders: any mixer, padding kept out, streaming.

Shape suffixes: B batch, T frames, U tokens, D model features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from speechbrain.lobes.models.transformer import TransformerASR as stock
from speechbrain.lobes.models.transformer.Transformer import NormalizedEmbedding
from speechbrain.nnet.containers import ModuleList
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders import ContextNetEncoder
from summarymixing_modules.encoders.base import EncoderStreamingContext, MixerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.summary_decoder import DecoderState, MixerDecoder
from summarymixing_modules.models.describe import describable
from summarymixing_modules.models.encoder_choice import ENCODERS, make_encoder
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.initialisation import initialise
from summarymixing_modules.ops.positions import sine_positions


@dataclass
class StreamingContext(stock.TransformerASRStreamingContext):
    """SpeechBrain's context, and the position of the next frame."""

    encoder_context: EncoderStreamingContext
    position: int = 0


@describable
class TransformerASR(stock.TransformerASR):
    """An encoder of mixers and, if asked for, a Transformer decoder.

    Args:
        tgt_vocab: output tokens of the decoder.
        input_size: features of the front end.
        d_model, nhead, num_encoder_layers, num_decoder_layers, d_ffn, dropout, activation,
            kernel_size, bias, conformer_activation, branchformer_activation, causal,
            csgu_linear_units, gate_activation, use_linear_after_conv, output_hidden_states,
            layerdrop_prob: as in SpeechBrain; ``activation`` is that of the decoder and of the
            Transformer encoder.
        csgu_padding_mode: of a Branchformer's convolutions: what is outside an utterance, "zeros"
            or "reflect", which is SpeechBrain's and takes no chunks.
        merge_width: hidden features of what merges a Branchformer's branches; None = ``d_model``.
        encoder_module: "conformer", "branchformer", "transformer" (pre-norm) or "contextnet"
            (``num_encoder_layers`` blocks, 21 in the paper; ``attention_type`` "cnnonly").
        attention_type: name of the encoder's mixer.
        mixer_options: its options.
        absolute_positions: add sine positions to the encoder's input; "where_none" = unless the
            mixer brings relative or rotary ones; None = when the mixer needs them, and in a
            Transformer encoder when the mixer has no positions.
        decoder_attention: name of a mixer that can be causal, in the place of the decoder's
            self-attention: "regularMHA" as in SpeechBrain; "SummaryMixing" for the summary decoder
            of arXiv 2307.07421.
        decoder_mixer_options: its options.
        decoder_nhead: heads of the decoder, cross-attention included; None = ``nhead``.
        contextnet_options: ``conv_channels``, ``kernel_size``, ``num_layers``, ``inner_dim`` and
            ``alpha`` of ``ContextNetEncoder``.
        activation_checkpointing: keep of every encoder layer its input only, and compute the rest
            again in the backward pass: less memory, more time.
        initialisation: what mixers start from, see ``models.initialisation``: "paper" as in
            SpeechBrain, which draws every matrix again, with one fan-in for all heads; "mixer" as
            they make themselves; "blocks" with the fan-in of a head and zero biases. ContextNet
            keeps its own.

    Raises:
        InputError: unknown ``encoder_module`` or ``initialisation``, or an encoder that cannot do
            what is asked of it.
    """

    def __init__(
        self,
        tgt_vocab: int,
        input_size: int,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 12,
        num_decoder_layers: int = 6,
        d_ffn: int = 2048,
        dropout: float = 0.1,
        activation: type[nn.Module] = nn.GELU,
        kernel_size: int = 31,
        bias: bool = True,
        encoder_module: str = "conformer",
        conformer_activation: type[nn.Module] = nn.SiLU,
        branchformer_activation: type[nn.Module] = nn.GELU,
        attention_type: str = "SummaryMixing",
        mixer_options: Mapping[str, Any] | None = None,
        absolute_positions: bool | str | None = None,
        causal: bool = False,
        csgu_linear_units: int = 3072,
        gate_activation: type[nn.Module] = nn.Identity,
        use_linear_after_conv: bool = False,
        output_hidden_states: bool = False,
        layerdrop_prob: float = 0.0,
        decoder_attention: str = "regularMHA",
        decoder_mixer_options: Mapping[str, Any] | None = None,
        decoder_nhead: int | None = None,
        contextnet_options: Mapping[str, Any] | None = None,
        activation_checkpointing: bool = False,
        csgu_padding_mode: str = "zeros",
        merge_width: int | None = None,
        initialisation: str = "mixer",
    ) -> None:
        settings = dict(locals())
        # SpeechBrain makes what is around the encoder: a name that it does not know leaves that to
        # us, and "regularMHA" makes nothing. Positions are made when they are needed, for any
        # length.
        super().__init__(
            tgt_vocab,
            input_size,
            d_model=d_model,
            nhead=nhead,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=0,
            dropout=dropout,
            positional_encoding=None,
            encoder_module="none",
            attention_type="regularMHA",
            causal=causal,
            output_hidden_states=output_hidden_states,
            layerdrop_prob=layerdrop_prob,
        )
        self.encoder: MixerEncoder | ContextNetEncoder = make_encoder(encoder_module, settings)
        if absolute_positions is None:
            absolute_positions = self.encoder.positions in ENCODERS[encoder_module].without_order
        elif absolute_positions == "where_none":
            absolute_positions = self.encoder.positions in ("absolute", "none")
        elif not isinstance(absolute_positions, bool):
            raise InputError(
                f"absolute_positions={absolute_positions!r} must be True, False, where_none or "
                "left out."
            )
        self.absolute_positions = absolute_positions
        if num_decoder_layers > 0:
            self.custom_tgt_module = ModuleList(NormalizedEmbedding(d_model, tgt_vocab))
            self.decoder = MixerDecoder(
                num_decoder_layers,
                nhead if decoder_nhead is None else decoder_nhead,
                d_ffn,
                d_model,
                dropout,
                activation,
                normalize_before=True,
                attention_type=decoder_attention,
                mixer_options=decoder_mixer_options,
            )
            initialise(self.custom_tgt_module, initialisation)
            initialise(self.decoder, initialisation)

    def encode(
        self,
        src: Tensor,
        wav_len: Tensor | None = None,
        pad_idx: int = 0,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Encodes utterances.

        Args:
            src: (B, T, input_size).
            wav_len: (B,) share of real frames; None = all are.
            pad_idx: unused by encoders; SpeechBrain's call has it.
            dynchunktrain_config: chunk size in frames and left context in chunks.

        Returns:
            (B, T, D), and the hidden states when they were asked for.
        """
        x_BTD = self.embed(src, 0)
        outputs = self.encoder(
            src=x_BTD,
            src_key_padding_mask=self._padding(src, wav_len),
            dynchunktrain_config=dynchunktrain_config,
        )
        return (outputs[0], outputs[2]) if self.output_hidden_states else outputs[0]

    def forward(
        self, src: Tensor, tgt: Tensor, wav_len: Tensor | None = None, pad_idx: int = 0
    ) -> tuple[Any, ...]:
        """Encodes and, teacher-forced, decodes.

        Args:
            src: (B, T, input_size).
            tgt: (B, U) token indices that the decoder reads.
            wav_len: (B,) share of real frames.
            pad_idx: token index of padding in ``tgt``.

        Returns:
            encoder output (B, T, D), hidden states if asked for, decoder output (B, U, D).
        """
        tgt_BUD = self.embed_tokens(tgt, 0)
        encoded = self.encode(src, wav_len)
        encoder_out = encoded[0] if isinstance(encoded, tuple) else encoded
        decoder_out, _, _ = self.decoder(
            tgt_BUD,
            encoder_out,
            tgt_key_padding_mask=tgt == pad_idx,
            memory_key_padding_mask=self._padding(src, wav_len),
        )
        hidden = (encoded[1],) if isinstance(encoded, tuple) else ()
        return encoder_out, *hidden, decoder_out

    @torch.no_grad()
    def decode(
        self, tgt: Tensor, encoder_out: Tensor, enc_len: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decodes whole prefixes; what SpeechBrain's searchers call at every step.

        Args:
            tgt: (B, U) token indices so far.
            encoder_out: (B, S, D).
            enc_len: (B,) real encoder frames.

        Returns:
            decoder output (B, U, D) and the cross-attention weights (B, U, S) of the last layer.
        """
        tgt_BUD = self.embed_tokens(tgt, 0)
        output, _, weights = self.decoder(
            tgt_BUD,
            encoder_out,
            memory_key_padding_mask=_frames_to_padding(encoder_out, enc_len),
        )
        return output, weights[-1]

    @torch.no_grad()
    def initial_state(self, encoder_out: Tensor, enc_len: Tensor | None = None) -> DecoderState:
        """The decoder's state before the first token; ``decoder.reorder`` picks hypotheses of it.

        Args:
            encoder_out: (B, S, D).
            enc_len: (B,) real encoder frames.
        """
        self._require_decoder()
        return self.decoder.initial_state(encoder_out, _frames_to_padding(encoder_out, enc_len))

    @torch.no_grad()
    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Decodes one token of every hypothesis, as ``decode`` does with the whole prefix.

        Args:
            tokens: (B,) the last token of each hypothesis.
            state: from ``initial_state`` or the step before. It is not changed.

        Returns:
            decoder output (B, D), for the output layer, and the next state.
        """
        return self.decoder.step(self.embed_tokens(tokens[:, None], state.position)[:, 0], state)

    def make_streaming_context(
        self, dynchunktrain_config: DynChunkTrainConfig, encoder_kwargs: Any = None
    ) -> StreamingContext:
        """An empty context for a new (batch of) stream(s)."""
        encoder_context = self.encoder.make_streaming_context(
            dynchunktrain_config, **(encoder_kwargs or {})
        )
        return StreamingContext(dynchunktrain_config, encoder_context)

    def encode_streaming(self, src: Tensor, context: StreamingContext) -> Tensor:
        """Encodes the next chunk (B, T, input_size) of a stream; changes the context."""
        x_BTD = self.embed(src, context.position)
        context.position += x_BTD.shape[1]
        return self.encoder.forward_streaming(x_BTD, context.encoder_context)[0]

    def embed(self, src: Tensor, position: int) -> Tensor:
        """What the encoder reads, (B, T, D), of a front end's frames that begin at ``position``."""
        if src.dim() == 4:
            src = src.flatten(2)
        x_BTD = self.custom_src_module(src)
        return _with_positions(x_BTD, position) if self.absolute_positions else x_BTD

    def _require_decoder(self) -> None:
        if not hasattr(self, "decoder"):
            raise InputError("this model has no decoder: give num_decoder_layers of at least 1.")

    def embed_tokens(self, tgt: Tensor, position: int) -> Tensor:
        """What the decoder reads, (B, U, D), of tokens (B, U) that begin at ``position``."""
        self._require_decoder()
        return _with_positions(self.custom_tgt_module(tgt), position)

    def _padding(self, src: Tensor, wav_len: Tensor | None) -> Tensor | None:
        if wav_len is None:
            return None
        return lengths_to_padding((wav_len * src.shape[1]).round(), src.shape[1])


def _with_positions(x_BTD: Tensor, position: int) -> Tensor:
    length, features = x_BTD.shape[1:]
    return x_BTD + sine_positions(length, features, position, x_BTD.device).to(x_BTD.dtype)


def _frames_to_padding(encoder_out: Tensor, enc_len: Tensor | None) -> Tensor | None:
    return None if enc_len is None else lengths_to_padding(enc_len, encoder_out.shape[1])
