"""Heads of probes for transcripts (a distribution for every frame) and classes (one an utterance).

Sizes are those of MP3S (arXiv 2308.14456). All are blind to padding.

Shape suffixes: B batch, T frames, D features, V vocabulary, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from summarymixing_modules.encoders.contextnet import ContextNet
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.ops.summary import utterance_mean


class Recurrent(nn.Module):
    """A bidirectional LSTM that begins and ends with each utterance, however long its row is.

    Args:
        input_size: features D.
        hidden_size: of each direction.
        layers: how many.
        dropout: between layers.
    """

    def __init__(self, input_size: int, hidden_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            input_size,
            hidden_size,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=True,
        )
        self.output_size = 2 * hidden_size

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, T, 2 · hidden_size); zero in padded frames."""
        packed = pack_padded_sequence(
            x_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False
        )
        output, _ = self.lstm(packed)
        return pad_packed_sequence(output, batch_first=True, total_length=x_BTD.shape[1])[0]


class RecurrentCTCHead(nn.Module):
    """BiLSTM and Linear: log-probabilities of every frame.

    Args:
        input_size: features D.
        outputs: vocabulary V, blank included.
        hidden_size: of each direction of the LSTM.
        layers: of the LSTM.
        dropout: between its layers.
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        hidden_size: int = 1024,
        layers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.recurrent = Recurrent(input_size, hidden_size, layers, dropout)
        self.output = nn.Linear(self.recurrent.output_size, outputs)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Log-probabilities (B, T, V)."""
        return self.output(self.recurrent(x_BTD, lengths_B)).log_softmax(dim=-1)


class ContextNetCTCHead(nn.Module):
    """ContextNet without strides and Linear: log-probabilities of every frame.

    Args:
        input_size: features D.
        outputs: vocabulary V, blank included.
        out_channels: features of ContextNet's output.
        conv_channels: width of each block; None = 256 for the first ten, then 512.
        num_blocks: how many.
        num_layers: convolutions of a block.
        dropout: after every block.
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        out_channels: int = 640,
        conv_channels: Sequence[int] | None = None,
        num_blocks: int = 21,
        num_layers: int = 5,
        dropout: float = 0.15,
    ) -> None:
        super().__init__()
        self.network = ContextNet(
            input_size,
            out_channels,
            conv_channels=conv_channels,
            strides=[1] * num_blocks,
            num_blocks=num_blocks,
            num_layers=num_layers,
            dropout=dropout,
        )
        self.output = nn.Linear(out_channels, outputs)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Log-probabilities (B, T, V)."""
        y_BTD, _ = self.network(x_BTD, lengths_to_padding(lengths_B, x_BTD.shape[1]))
        return self.output(y_BTD).log_softmax(dim=-1)


class LinearCTCHead(nn.Module):
    """Linear to 1024, Linear: log-probabilities of every frame. Nothing in it is non-linear.

    Args:
        input_size: features D.
        outputs: vocabulary V, blank included.
        hidden_size: features between the two.
    """

    def __init__(self, input_size: int, outputs: int, hidden_size: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, outputs)
        )

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Log-probabilities (B, T, V)."""
        return self.layers(x_BTD).log_softmax(dim=-1)


class PooledLinearHead(nn.Module):
    """Mean over the real frames and Linear: scores of the classes.

    Args:
        input_size: features D.
        outputs: classes K.
    """

    def __init__(self, input_size: int, outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(input_size, outputs)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores (B, K)."""
        return self.output(mean_over_time(x_BTD, lengths_B))


class PooledRecurrentHead(nn.Module):
    """BiLSTM, Linear to D, mean over the real frames and Linear: scores of the classes.

    Args:
        input_size: features D.
        outputs: classes K.
        hidden_size: of each direction of the LSTM; None = D.
        layers: of the LSTM.
        dropout: between its layers.
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        hidden_size: int | None = None,
        layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.recurrent = Recurrent(input_size, hidden_size or input_size, layers, dropout)
        self.projection = nn.Linear(self.recurrent.output_size, input_size)
        self.output = nn.Linear(input_size, outputs, bias=False)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores (B, K)."""
        projected_BTD = self.projection(self.recurrent(x_BTD, lengths_B))
        return self.output(mean_over_time(projected_BTD, lengths_B))


def mean_over_time(x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean of the real frames, (B, D)."""
    return utterance_mean(x_BTD, lengths_to_padding(lengths_B, x_BTD.shape[1]))
