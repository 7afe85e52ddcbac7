"""A recogniser with a decoder and a CTC head on one encoder, and the searches that decode with it.

Hybrid CTC/attention: Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech
Recognition", IEEE JSTSP 2017; the models of arXiv 2307.07421.

Shape suffixes: B batch (utterances, or hypotheses of them), T frames, U tokens, F features,
D model features, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from speechbrain.decoders.seq2seq import S2STransformerBeamSearcher, S2STransformerGreedySearcher
from speechbrain.nnet.linear import Linear
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.asr.summary_decoder import DecoderState
from summarymixing_modules.models.describe import describable
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.transformer_asr import TransformerASR

PAD_INDEX = 0  # of tokens; the blank's index, too


class AttentionCTCOutput(NamedTuple):
    """What the model says about a batch.

    Attributes:
        ctc_BTV: log-probabilities of the CTC head, float32.
        seq_BUV: log-probabilities of the next token, float32.
        encoded_BTD: output of the encoder, for a search.
        lengths_B: real frames of each utterance.
    """

    ctc_BTV: Tensor
    seq_BUV: Tensor
    encoded_BTD: Tensor
    lengths_B: Tensor


@describable
class AttentionCTCModel(AcousticEncoder):
    """Front end, encoder, decoder and two output layers; one module, so that DDP wraps it once.

    The output layers are SpeechBrain's ``Linear``, as its searchers and its CTC scorer want.

    Args:
        frontend: (x_BTF, lengths_B) → (y_BTD, lengths_B), as in models/frontend.py.
        transformer: encoder and decoder.
        output_neurons: vocabulary V: blank or padding (0), begin and end marks, tokens.

    Raises:
        InputError: the transformer has no decoder.
    """

    def __init__(
        self, frontend: nn.Module, transformer: TransformerASR, output_neurons: int
    ) -> None:
        super().__init__(frontend, transformer)
        if not hasattr(transformer, "decoder"):
            raise InputError(
                "num_decoder_layers is 0, but attention and CTC need a decoder: give at least 1, "
                "or train with the CTC recipe."
            )
        self.ctc_output = Linear(output_neurons, input_size=self.encoder_size)
        self.seq_output = Linear(output_neurons, input_size=self.encoder_size)

    def forward(
        self,
        x_BTF: Tensor,
        lengths_B: Tensor,
        tokens_bos_BU: Tensor,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> AttentionCTCOutput:
        """Scores tokens, the decoder teacher-forced.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.
            tokens_bos_BU: begin mark and tokens, padded with 0.
            dynchunktrain_config: chunk size in frames and left context in chunks.
        """
        encoded_BTD, lengths_B = self.encode(x_BTF, lengths_B, dynchunktrain_config)
        decoded_BUD, _, _ = self.transformer.decoder(
            self.transformer.embed_tokens(tokens_bos_BU, 0),
            encoded_BTD,
            tgt_key_padding_mask=tokens_bos_BU == PAD_INDEX,
            memory_key_padding_mask=lengths_to_padding(lengths_B, encoded_BTD.shape[1]),
        )
        return AttentionCTCOutput(
            self.ctc_output(encoded_BTD).float().log_softmax(dim=-1),
            self.seq_output(decoded_BUD).float().log_softmax(dim=-1),
            encoded_BTD,
            lengths_B,
        )


class GreedySearcher(S2STransformerGreedySearcher):
    """SpeechBrain's greedy search, a token a step: the decoder keeps its state.

    SpeechBrain's decodes the whole prefix, and projects all encoder frames, at every step. The
    arguments are the same: ``modules=[transformer, seq_output], bos_index=1, …``.
    """

    def change_max_decoding_length(self, least: int, most: int) -> tuple[int, int]:
        """At least one step, however short an utterance is."""
        return least, max(most, least + 1)

    def forward_step(
        self,
        inp_tokens: Tensor,
        memory: DecoderState | None,
        enc_states: Tensor,
        enc_lens: Tensor,
        attention_mask: None = None,
    ) -> tuple[Tensor, DecoderState, None]:
        """Scores (B, V) of the next token, and the decoder's state."""
        return *_step(self, inp_tokens, memory, enc_states, enc_lens), None


class BeamSearcher(S2STransformerBeamSearcher):
    """SpeechBrain's beam search, a token a step: the decoder keeps its state.

    Arguments and results are SpeechBrain's. Every hypothesis has its own copy of the keys and
    values of the encoder frames: 2 · layers · T · D numbers.
    """

    def change_max_decoding_length(self, least: int, most: int) -> tuple[int, int]:
        """At least one step, however short an utterance is."""
        return least, max(most, least + 1)

    def permute_mem(self, memory: DecoderState, index: Tensor) -> DecoderState:
        """The states of the hypotheses that go on; they change places within their utterance."""
        return self.model.decoder.reorder(memory, index, same_memory=True)

    def forward_step(
        self,
        inp_tokens: Tensor,
        memory: DecoderState | None,
        enc_states: Tensor,
        enc_lens: Tensor,
    ) -> tuple[Tensor, DecoderState, None]:
        """Log-probabilities (B, V) of the next token, and the decoder's state."""
        logits_BV, state = _step(self, inp_tokens, memory, enc_states, enc_lens)
        return (logits_BV / self.temperature).log_softmax(dim=-1), state, None


@torch.no_grad()
def _step(
    searcher: GreedySearcher | BeamSearcher,
    tokens_B: Tensor,
    state: DecoderState | None,
    encoded_BTD: Tensor,
    lengths_B: Tensor,
) -> tuple[Tensor, DecoderState]:
    """Scores (B, V) of the next token in float32, and the next state."""
    if state is None:
        state = searcher.model.initial_state(encoded_BTD, lengths_B)
    decoded_BD, state = searcher.model.step(tokens_B, state)
    return searcher.fc(decoded_BD).float(), state
