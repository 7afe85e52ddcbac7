"""A recurrent language model over the tokens of a transducer, for its beam search.

Shape suffixes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

from speechbrain.lobes.models.RNNLM import RNNLM
from torch import Tensor

from summarymixing_modules.models.describe import describable

Hidden = tuple[Tensor, Tensor]


@describable
class RecurrentLanguageModel(RNNLM):
    """SpeechBrain's RNNLM: embedding, LSTM, a hidden layer, scores of the token that follows.

    Token 0, which a transducer has as its blank, stands for the beginning of a line.

    Args:
        vocab: vocabulary V.
        d_embedding: features of a token's embedding.
        num_layers: of the LSTM.
        hidden_size: of the LSTM.
        d_output: features of the layer between the LSTM and the scores.
        dropout: after the embedding, between the layers and after the last one.
    """

    needs_marks = False

    def __init__(
        self,
        vocab: int,
        d_embedding: int = 128,
        num_layers: int = 2,
        hidden_size: int = 2048,
        d_output: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            vocab,
            embedding_dim=d_embedding,
            dropout=dropout,
            rnn_layers=num_layers,
            rnn_neurons=hidden_size,
            dnn_neurons=d_output,
            return_hidden=True,
        )

    def forward(self, tokens_BU: Tensor) -> Tensor:
        """Scores (B, U, V) of the token that follows each."""
        return self.step(tokens_BU)[0]

    def step(self, tokens_BU: Tensor, hidden: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """Scores (B, U, V) of the tokens that follow the next ones, and the LSTM's new state.

        Args:
            tokens_BU: the next tokens.
            hidden: the state after those before; None at the beginning of a line.
        """
        scores_BUV, hidden = super().forward(tokens_BU, hidden)
        return scores_BUV, hidden
