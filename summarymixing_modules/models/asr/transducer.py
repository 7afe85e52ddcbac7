"""A transducer: front end, encoder, predictor of the next token, and the joint of both.

arXiv 1211.3711; sizes and the sum with GELU in the joint as in the streaming models of
arXiv 2409.07165.

Shape suffixes: B batch, T frames, F features, D encoder features, U tokens, J joint features,
V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain.nnet.embedding import Embedding

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.asr.transducer_loss import BLANK_INDEX
from summarymixing_modules.models.describe import describable
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.transformer_asr import TransformerASR

Hidden = tuple[Tensor, Tensor]

# Frames that greedy decoding looks at in one step: all blanks but the last are taken at once.
_WINDOW = 8


class TransducerOutput(NamedTuple):
    """What the losses need.

    Attributes:
        logits_BTUV: scores of the next token at every frame after 0 … U tokens, (B, T, U + 1, V).
        ctc_log_probs_BTV: of the CTC head, float32.
        encoded_BTD: output of the encoder.
        lengths_B: real frames of each utterance.
    """

    logits_BTUV: Tensor
    ctc_log_probs_BTV: Tensor
    encoded_BTD: Tensor
    lengths_B: Tensor


class GreedyState(NamedTuple):
    """Where greedy decoding stands; of fixed size.

    Attributes:
        predicted_BJ: the joint's share of the tokens so far.
        hidden: state of the LSTM, two tensors (1, B, predictor size).
    """

    predicted_BJ: Tensor
    hidden: Hidden


class Predictor(nn.Module):
    """Embedding and an LSTM of one layer over the tokens so far; blank stands for the start.

    Args:
        vocabulary: V, blank included.
        size: features of the LSTM, and of the embedding.
        dropout: after the LSTM.
        embedding_dropout: after the embedding.
        one_hot: no embedding is learnt: a token is a vector of V − 1 numbers, one of which is 1,
            and blank is zero.
    """

    def __init__(
        self, vocabulary: int, size: int, dropout: float, embedding_dropout: float, one_hot: bool
    ) -> None:
        super().__init__()
        self.size = size
        self.embedding: nn.Module
        if one_hot:
            self.embedding = Embedding(vocabulary, consider_as_one_hot=True, blank_id=BLANK_INDEX)
        else:
            self.embedding = nn.Embedding(vocabulary, size, padding_idx=BLANK_INDEX)
        self.lstm = nn.LSTM(vocabulary - 1 if one_hot else size, size, batch_first=True)
        self.dropout, self.embedding_dropout = nn.Dropout(dropout), nn.Dropout(embedding_dropout)

    def forward(self, tokens_BU: Tensor, hidden: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """Output (B, U, size) after each token, and the state of the LSTM."""
        embedded = self.embedding_dropout(self.embedding(tokens_BU))
        # In float32: CPUs have no LSTM in bfloat16, and this one costs little.
        with torch.autocast(embedded.device.type, enabled=False):
            output, hidden = self.lstm(embedded, hidden)
        return self.dropout(output), hidden


class Joint(nn.Module):
    """W · GELU(W_e · encoder + W_p · predictor).

    Args:
        encoder_size, predictor_size: what comes in.
        size: features J.
        vocabulary: V, blank included.
    """

    def __init__(self, encoder_size: int, predictor_size: int, size: int, vocabulary: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(encoder_size, size)
        self.predictor = nn.Linear(predictor_size, size, bias=False)
        self.output = nn.Linear(size, vocabulary)

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Logits of two projected inputs (…, J) that broadcast."""
        return self.output(F.gelu(encoded + predicted))


@describable
class TransducerModel(AcousticEncoder):
    """Features and tokens to the scores of a transducer; one module, so that DDP wraps it once.

    Args:
        frontend: (x_BTF, lengths_B) → (y_BTD, lengths_B), as in models/frontend.py.
        transformer: the encoder; its decoder, if it has one, is not used.
        output_neurons: vocabulary V, blank included.
        predictor_size: features of the predictor's LSTM.
        joint_size: features J of the joint.
        dropout: in the predictor, after its LSTM.
        embedding_dropout: after its embedding; None = ``dropout``.
        one_hot: tokens are one-hot vectors to the LSTM; no embedding is learnt.
        ctc_on_joint: the CTC head reads the encoder's share of the joint, of J features, and not
            the encoder.
        max_symbols: tokens that greedy decoding takes from one frame at most, which ends it on
            models that never say blank.

    Raises:
        InputError: ``max_symbols`` below 1.
    """

    def __init__(
        self,
        frontend: nn.Module,
        transformer: TransformerASR,
        output_neurons: int,
        predictor_size: int = 512,
        joint_size: int = 640,
        dropout: float = 0.1,
        max_symbols: int = 5,
        embedding_dropout: float | None = None,
        one_hot: bool = False,
        ctc_on_joint: bool = False,
    ) -> None:
        super().__init__(frontend, transformer)
        if max_symbols < 1:
            raise InputError(f"--max_symbols is {max_symbols}: let a frame give at least 1 token.")
        self.max_symbols = max_symbols
        if embedding_dropout is None:
            embedding_dropout = dropout
        self.predictor = Predictor(
            output_neurons, predictor_size, dropout, embedding_dropout, one_hot
        )
        self.joint = Joint(self.encoder_size, predictor_size, joint_size, output_neurons)
        self.ctc_on_joint = ctc_on_joint
        self.ctc_output = nn.Linear(
            joint_size if ctc_on_joint else self.encoder_size, output_neurons
        )

    def forward(
        self,
        x_BTF: Tensor,
        lengths_B: Tensor,
        tokens_BU: Tensor,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> TransducerOutput:
        """Scores every frame after every number of tokens; needs memory for B·T·U·V numbers.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.
            tokens_BU: what was said, without blanks; padding may hold any index.
            dynchunktrain_config: chunk size in frames and left context in chunks.
        """
        encoded_BTD, lengths_B = self.encode(x_BTF, lengths_B, dynchunktrain_config)
        predicted_BUP, _ = self.predictor(F.pad(tokens_BU, (1, 0), value=BLANK_INDEX))
        projected_BTJ = self.joint.encoder(encoded_BTD)
        logits_BTUV = self.joint(
            projected_BTJ[:, :, None], self.joint.predictor(predicted_BUP)[:, None]
        )
        ctc_input = projected_BTJ if self.ctc_on_joint else encoded_BTD
        ctc_log_probs_BTV = self.ctc_output(ctc_input).float().log_softmax(dim=-1)
        return TransducerOutput(logits_BTUV, ctc_log_probs_BTV, encoded_BTD, lengths_B)

    def greedy(self, encoded_BTD: Tensor, lengths_B: Tensor) -> list[list[int]]:
        """The tokens of whole utterances, at every node of the lattice the likeliest.

        Args:
            encoded_BTD: from ``encode``.
            lengths_B: real frames of each utterance.
        """
        padding_BT = lengths_to_padding(lengths_B, encoded_BTD.shape[1])
        state = self.initial_state(len(encoded_BTD))
        return self.greedy_step(encoded_BTD, padding_BT, state)[0]

    @torch.no_grad()
    def initial_state(self, batch_size: int) -> GreedyState:
        """State of greedy decoding before the first frame."""
        device = self.joint.output.weight.device
        start_B1 = torch.full((batch_size, 1), BLANK_INDEX, device=device)
        return self._predict(start_B1, None)

    @torch.no_grad()
    def greedy_step(
        self, encoded_BTD: Tensor, padding_BT: Tensor, state: GreedyState
    ) -> tuple[list[list[int]], GreedyState]:
        """Decodes the next frames; the tokens of all steps together are those of ``greedy``.

        Every stream has its own place in time, so streams of a batch do not wait for each other.

        Args:
            encoded_BTD: the next frames of the encoder.
            padding_BT: True = padded; only at the end of a stream.
            state: from ``initial_state`` or the step before. It is not changed.

        Returns:
            new tokens of each stream, and the next state.
        """
        lengths_B = (~padding_BT).sum(dim=1)
        encoded_BTJ = self.joint.encoder(encoded_BTD)
        batch, width = len(encoded_BTJ), min(_WINDOW, encoded_BTJ.shape[1])
        row_B = torch.arange(batch, device=encoded_BTJ.device)
        time_B, symbols_B = torch.zeros_like(row_B), torch.zeros_like(row_B)
        tokens: list[list[int]] = [[] for _ in range(batch)]
        while bool((time_B < lengths_B).any()):
            frame_BW = time_B[:, None] + torch.arange(width, device=row_B.device)
            real_BW = frame_BW < lengths_B[:, None]
            window_BWJ = encoded_BTJ[row_B[:, None], frame_BW.clamp(max=encoded_BTJ.shape[1] - 1)]
            best_BW = self.joint(window_BWJ, state.predicted_BJ[:, None]).argmax(dim=-1)
            says_BW = (best_BW != BLANK_INDEX) & real_BW
            emits_B, first_B = says_BW.any(dim=1), says_BW.int().argmax(dim=1)
            skipped_B = torch.where(emits_B, first_B, real_BW.sum(dim=1))
            symbols_B = torch.where(skipped_B > 0, 0, symbols_B) + emits_B
            full_B = symbols_B >= self.max_symbols
            time_B = time_B + skipped_B + full_B
            symbols_B = torch.where(full_B, 0, symbols_B)
            if bool(emits_B.any()):
                token_B = torch.where(emits_B, best_BW[row_B, first_B], BLANK_INDEX)
                state = self._advance(token_B, emits_B, state)
                for found, token in zip(tokens, token_B.tolist(), strict=True):
                    found.extend([token] if token != BLANK_INDEX else [])
        return tokens, state

    def _predict(self, tokens_B1: Tensor, hidden: Hidden | None) -> GreedyState:
        predicted_B1P, hidden = self.predictor(tokens_B1, hidden)
        return GreedyState(self.joint.predictor(predicted_B1P)[:, 0], hidden)

    def _advance(self, token_B: Tensor, emits_B: Tensor, state: GreedyState) -> GreedyState:
        """The state after the tokens of those streams that said one."""
        new = self._predict(token_B[:, None], state.hidden)
        keep_B1 = ~emits_B[:, None]
        return GreedyState(
            torch.where(keep_B1, state.predicted_BJ, new.predicted_BJ),
            (
                torch.where(keep_B1, state.hidden[0], new.hidden[0]),
                torch.where(keep_B1, state.hidden[1], new.hidden[1]),
            ),
        )
