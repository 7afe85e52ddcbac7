"""SpeechBrain's networks of 1-D convolutions (ECAPA-TDNN, X-vector), made blind to padding.

As they are, convolutions reflect at the end of the padded row and see padded frames, batch norm
counts them, and X-vector's pooling adds noise. Here, as in encoders/contextnet.py, padded frames
and the outside count as zero, and statistics are those of the real frames.

Shape suffixes: B batch, T frames, D features, X moments.
"""

from __future__ import annotations

from speechbrain.nnet.CNN import Conv1d
from speechbrain.nnet.normalization import BatchNorm1d
from speechbrain.nnet.pooling import StatisticsPooling
from torch import Tensor, nn

from summarymixing_modules.encoders.batch_norm import MaskedBatchNorm
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.ops.pooling import chunk_moments, mean_and_deviation


class PaddingBlind(nn.Module):
    """A network of SpeechBrain's convolutions that an utterance passes as if it were alone.

    Args:
        network: ``network(x_BTD, lengths)`` with SpeechBrain's relative lengths; its convolutions,
            batch norms and poolings are replaced.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._batch = _Batch()
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Conv1d):
                    child.padding_mode = "constant"
                    setattr(parent, name, _Convolution(child, self._batch))
                elif isinstance(child, BatchNorm1d):
                    setattr(parent, name, _Normalisation(child, self._batch))
                elif isinstance(child, StatisticsPooling):
                    setattr(parent, name, _Pooling(self._batch))

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """The network's output for utterances of ``lengths_B`` real frames."""
        frames = x_BTD.shape[1]
        self._batch.padding_BT = lengths_to_padding(lengths_B, frames)
        try:
            # SpeechBrain counts the integers below share · T: a quarter less survives rounding.
            return self.network(x_BTD, (lengths_B - 0.25) / frames)
        finally:
            self._batch.padding_BT = None


class _Batch:
    """Which frames of the batch at hand are padded."""

    padding_BT: Tensor | None = None

    def padding(self, x: Tensor, time: int) -> Tensor | None:
        """The mask, if ``x`` has a time axis and not one value for the utterance."""
        fits = self.padding_BT is not None and x.shape[time] == self.padding_BT.shape[1]
        return self.padding_BT if fits else None


def _time_axis(layer: Conv1d | BatchNorm1d) -> int:
    return 2 if layer.skip_transpose else 1


class _Convolution(nn.Module):
    """A convolution for which padded frames are zero."""

    def __init__(self, layer: Conv1d, batch: _Batch) -> None:
        super().__init__()
        self.layer, self._batch = layer, batch

    def forward(self, x: Tensor) -> Tensor:
        time = _time_axis(self.layer)
        padding_BT = self._batch.padding(x, time)
        if padding_BT is not None:
            x = x.masked_fill(padding_BT.unsqueeze(3 - time), 0.0)
        return self.layer(x)


class _Normalisation(nn.Module):
    """Batch norm with the statistics of the real frames."""

    def __init__(self, layer: BatchNorm1d, batch: _Batch) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(layer.norm)
        self.time, self._batch = _time_axis(layer), batch

    def forward(self, x: Tensor) -> Tensor:
        x_BTD = x if self.time == 1 else x.transpose(1, 2)
        y_BTD = self.norm(x_BTD, self._batch.padding(x, self.time))
        return y_BTD if self.time == 1 else y_BTD.transpose(1, 2)


class _Pooling(nn.Module):
    """Mean and standard deviation of the real frames as (B, 1, 2·D)."""

    def __init__(self, batch: _Batch) -> None:
        super().__init__()
        self._batch = batch

    def forward(self, x_BTD: Tensor) -> Tensor:
        padding_BT = self._batch.padding(x_BTD, 1)
        moments_B1X = chunk_moments(x_BTD, padding_BT, x_BTD.shape[1])
        return mean_and_deviation(moments_B1X).to(x_BTD.dtype)
