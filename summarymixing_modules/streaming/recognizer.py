"""Speech recognition of running streams: samples in, text out.

Shape suffixes: B batch, T frames, D encoder features, L samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import CTCModel, TransducerModel
from summarymixing_modules.streaming.encoder import EncoderState, StreamingEncoder

_WORD_START = "\u2581"  # of SentencePiece


class GreedyDecoder(Protocol):
    """Turns encoder output into tokens, chunk by chunk."""

    def initial_state(self, batch_size: int) -> Any:
        """State before the first frame."""

    def greedy_step(
        self, encoded_BTD: Tensor, padding_BT: Tensor, state: Any
    ) -> tuple[list[list[int]], Any]:
        """New tokens of each stream, and the next state."""


class CTCGreedyDecoder:
    """Best path of CTC (Graves et al., ICML 2006, §3.2) over a stream.

    Args:
        output: the model's output layer.
    """

    def __init__(self, output: nn.Linear) -> None:
        self.output = output

    def initial_state(self, batch_size: int) -> Tensor:
        """The label of the last frame of each stream: blank."""
        return torch.full((batch_size,), BLANK_INDEX, device=self.output.weight.device)

    def greedy_step(
        self, encoded_BTD: Tensor, padding_BT: Tensor, state: Tensor
    ) -> tuple[list[list[int]], Tensor]:
        """New tokens of each stream, and the labels of their last real frames."""
        best_BT = self.output(encoded_BTD).argmax(dim=-1)
        labels_BT = torch.cat([state[:, None], best_BT], dim=1)
        new_BT = (best_BT != BLANK_INDEX) & (best_BT != labels_BT[:, :-1]) & ~padding_BT
        tokens = [row[new].tolist() for row, new in zip(best_BT, new_BT, strict=True)]
        last_B1 = (~padding_BT).sum(dim=1, keepdim=True)
        return tokens, labels_BT.gather(1, last_B1)[:, 0]


@dataclass(frozen=True)
class RecognizerState:
    """What is remembered of a batch of streams; of fixed size with a mixer of linear time, and
    with any mixer whose left context is limited. To be used once.

    Attributes:
        encoder: state of features, front end and encoder.
        decoder: state of the decoder.
        spaces: what each stream said last, where that is white space; None before its first word.
    """

    encoder: EncoderState
    decoder: Any
    spaces: tuple[str | None, ...]


class StreamingRecognizer:
    """Recognises speech while it is spoken.

        recognizer = StreamingRecognizer(model, compute_features, normalize, tokenizer, 16, 4)
        state = recognizer.start(batch_size=1)
        for samples_BL in microphone:  # (1, any number), at compute_features' sample rate
            texts, state = recognizer.accept(samples_BL, state)
            print(texts[0], end="")
        texts, _ = recognizer.accept(torch.zeros(1, 0), state, final=True)

    The texts of a stream together are the greedy transcript of the chunk-masked forward pass over
    the whole utterance. Text of a chunk is out ``latency`` seconds after the chunk began: the chunk
    itself and the look-ahead of windows and front end (6 ms with ConvFrontEnd2d of kernel 3, 36 ms
    with ConvFrontEnd1d of kernel 5).

    Args:
        model: a trained CTC or transducer model; put into evaluation mode.
        compute_features: its ``LocalFbank``.
        normalize: its normalisation, with global statistics.
        tokenizer: its tokenizer.
        chunk_size: encoder frames of a chunk (of 40 ms in the recipes).
        left_context_size: chunks that a chunk sees to its left; None = all.

    Raises:
        InputError: something of the model cannot stream; names it and the remedy.
    """

    def __init__(
        self,
        model: CTCModel | TransducerModel,
        compute_features: Fbank,
        normalize: InputNormalization,
        tokenizer: Tokenizer,
        chunk_size: int = 16,
        left_context_size: int | None = None,
    ) -> None:
        self.decoder: GreedyDecoder
        if isinstance(model, TransducerModel):
            self.decoder = model
        elif isinstance(model, CTCModel):
            self.decoder = CTCGreedyDecoder(model.output)
        else:
            raise InputError(
                f"a {type(model).__name__} cannot be decoded as a stream: give a CTCModel or a "
                "TransducerModel."
            )
        self.encoder = StreamingEncoder(
            model, compute_features, normalize, chunk_size, left_context_size
        )
        self.pieces = _pieces(tokenizer)

    @property
    def latency(self) -> float:
        """Seconds from the first sample of a chunk until its text: chunk + look-ahead."""
        return self.encoder.latency

    def start(self, batch_size: int = 1) -> RecognizerState:
        """State of ``batch_size`` streams before their first sample."""
        return RecognizerState(
            self.encoder.start(batch_size),
            self.decoder.initial_state(batch_size),
            (None,) * batch_size,
        )

    @torch.no_grad()
    def accept(
        self,
        samples_BL: Tensor,
        state: RecognizerState,
        lengths_B: Tensor | None = None,
        final: bool = False,
    ) -> tuple[list[str], RecognizerState]:
        """Recognises what the next samples complete; arguments as in ``StreamingEncoder.accept``.

        Returns:
            new text of each stream, to be put after what it said before; and the next state.
        """
        tokens, state = self.accept_tokens(samples_BL, state, lengths_B, final)
        texts, spaces = [], []
        for row, space in zip(tokens, state.spaces, strict=True):
            text, space = self._text(row, space)
            texts.append(text)
            spaces.append(space)
        return texts, RecognizerState(state.encoder, state.decoder, tuple(spaces))

    @torch.no_grad()
    def accept_tokens(
        self,
        samples_BL: Tensor,
        state: RecognizerState,
        lengths_B: Tensor | None = None,
        final: bool = False,
    ) -> tuple[list[list[int]], RecognizerState]:
        """As ``accept``, but returns the new tokens of each stream instead of their text."""
        chunks, encoder = self.encoder.accept(samples_BL, state.encoder, lengths_B, final)
        tokens: list[list[int]] = [[] for _ in state.spaces]
        decoder = state.decoder
        for encoded_BTD, padding_BT in chunks:
            new, decoder = self.decoder.greedy_step(encoded_BTD, padding_BT, decoder)
            for row, found in zip(tokens, new, strict=True):
                row.extend(found)
        return tokens, RecognizerState(encoder, decoder, state.spaces)

    def _text(self, tokens: Sequence[int], space: str | None) -> tuple[str, str | None]:
        """New text without white space at the ends of the transcript, and what is held back."""
        text = "".join(self.pieces[token] for token in tokens)
        if space is None:
            text = text.lstrip(" ")
            if not text:
                return "", None
        text = (space or "") + text
        said = text.rstrip(" ")
        return said, text[len(said) :]


def _pieces(tokenizer: Tokenizer) -> list[str]:
    """The text of every token, its leading space included; none for blank and marks."""
    marks = (tokenizer.blank_index, tokenizer.bos_index, tokenizer.eos_index)
    return [
        "" if index in marks else piece.replace(_WORD_START, " ")
        for index, piece in enumerate(tokenizer.pieces())
    ]
