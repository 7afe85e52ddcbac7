"""SpeechBrain's TransformerASR with our encoders: any mixer, padding kept out, streaming.

Shape suffixes: B batch, T frames, U tokens, D model features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from speechbrain.lobes.models.transformer import TransformerASR as stock
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders import BranchformerEncoder, ConformerEncoder
from summarymixing_modules.encoders.base import EncoderStreamingContext, MixerEncoder
from summarymixing_modules.mixers import Mixer
from summarymixing_modules.models.frontend import lengths_to_padding
from summarymixing_modules.ops.positions import sine_positions


@dataclass
class StreamingContext(stock.TransformerASRStreamingContext):
    """SpeechBrain's context, and the position of the next frame."""

    encoder_context: EncoderStreamingContext
    position: int = 0


class TransformerASR(stock.TransformerASR):
    """An encoder of mixers and, if asked for, SpeechBrain's attention decoder.

    Mixers keep their own initialisation (SpeechBrain draws every matrix again, with one fan-in for
    all heads); everything else is drawn as there.

    Args:
        tgt_vocab: output tokens of the decoder.
        input_size: features of the front end.
        d_model, nhead, num_encoder_layers, num_decoder_layers, d_ffn, dropout, activation,
            kernel_size, bias, conformer_activation, branchformer_activation, max_length, causal,
            csgu_linear_units, gate_activation, use_linear_after_conv, output_hidden_states,
            layerdrop_prob: as in SpeechBrain; ``activation`` is the decoder's.
        encoder_module: "conformer" or "branchformer".
        attention_type: name of the mixer.
        mixer_options: its options.
        absolute_positions: add sine positions to the encoder's input; None = when the mixer
            needs them.

    Raises:
        ValueError: unknown ``encoder_module``, or a causal Branchformer.
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
        absolute_positions: bool | None = None,
        max_length: int = 2500,
        causal: bool = False,
        csgu_linear_units: int = 3072,
        gate_activation: type[nn.Module] = nn.Identity,
        use_linear_after_conv: bool = False,
        output_hidden_states: bool = False,
        layerdrop_prob: float = 0.0,
    ) -> None:
        # A name that SpeechBrain does not know leaves the encoder to us; "regularMHA" is what its
        # decoder uses in any case.
        super().__init__(
            tgt_vocab,
            input_size,
            d_model=d_model,
            nhead=nhead,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            d_ffn=d_ffn,
            dropout=dropout,
            activation=activation,
            normalize_before=True,
            encoder_module="none",
            attention_type="regularMHA",
            max_length=max_length,
            causal=causal,
            output_hidden_states=output_hidden_states,
        )
        shared: dict[str, Any] = {
            "num_layers": num_encoder_layers,
            "d_model": d_model,
            "nhead": nhead,
            "kernel_size": kernel_size,
            "dropout": dropout,
            "attention_type": attention_type,
            "output_hidden_states": output_hidden_states,
            "layerdrop_prob": layerdrop_prob,
            **(mixer_options or {}),
        }
        if encoder_module == "conformer":
            self.encoder: MixerEncoder = ConformerEncoder(
                d_ffn=d_ffn, activation=conformer_activation, bias=bias, causal=causal, **shared
            )
        elif encoder_module == "branchformer":
            if causal:
                raise ValueError("no Branchformer is causal: use encoder_module=conformer.")
            self.encoder = BranchformerEncoder(
                activation=branchformer_activation,
                csgu_linear_units=csgu_linear_units,
                gate_activation=gate_activation,
                use_linear_after_conv=use_linear_after_conv,
                **shared,
            )
        else:
            raise ValueError(
                f"unknown encoder_module {encoder_module!r}. Known: conformer, branchformer."
            )
        needs_positions = self.encoder.positions == "absolute"
        self.absolute_positions = (
            needs_positions if absolute_positions is None else absolute_positions
        )
        init_outside_mixers(self.encoder)

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
        x_BTD = self._embed(src, 0)
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
        encoded = self.encode(src, wav_len)
        encoder_out = encoded[0] if isinstance(encoded, tuple) else encoded
        tgt_mask = stock.get_lookahead_mask(tgt).isinf()
        tgt_BUD = self.custom_tgt_module(tgt)
        decoder_out, _, _ = self.decoder(
            tgt=tgt_BUD + self.positional_encoding(tgt_BUD),
            memory=encoder_out,
            tgt_mask=tgt_mask,
            tgt_key_padding_mask=stock.get_key_padding_mask(tgt, pad_idx=pad_idx),
            memory_key_padding_mask=self._padding(src, wav_len),
        )
        hidden = (encoded[1],) if isinstance(encoded, tuple) else ()
        return encoder_out, *hidden, decoder_out

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
        x_BTD = self._embed(src, context.position)
        context.position += x_BTD.shape[1]
        return self.encoder.forward_streaming(x_BTD, context.encoder_context)[0]

    def _embed(self, src: Tensor, position: int) -> Tensor:
        if src.dim() == 4:
            src = src.flatten(2)
        x_BTD = self.custom_src_module(src)
        if not self.absolute_positions:
            return x_BTD
        length, features = x_BTD.shape[1:]
        return x_BTD + sine_positions(length, features, position, x_BTD.device).to(x_BTD.dtype)

    def _padding(self, src: Tensor, wav_len: Tensor | None) -> Tensor | None:
        if wav_len is None:
            return None
        return lengths_to_padding((wav_len * src.shape[1]).round(), src.shape[1])


def init_outside_mixers(encoder: nn.Module) -> None:
    """SpeechBrain's initialisation (Xavier-normal matrices), leaving mixers as they are."""
    inside = {
        id(parameter)
        for module in encoder.modules()
        if isinstance(module, Mixer)
        for parameter in module.parameters()
    }
    for parameter in encoder.parameters():
        if parameter.dim() > 1 and id(parameter) not in inside:
            torch.nn.init.xavier_normal_(parameter)
