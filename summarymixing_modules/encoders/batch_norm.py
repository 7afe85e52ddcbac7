"""The batch norm layer of SpeechBrain's convolutional networks, blind to padding.

Shape suffixes: B batch, T frames, D features.
"""

from __future__ import annotations

from speechbrain.nnet.normalization import BatchNorm1d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from summarymixing_modules.ops.batch_norm import batch_norm


class MaskedBatchNorm(_NormBase):
    """Batch norm over the real frames, in a training on several processes over those of all.

    Parameters and buffers are those of ``torch.nn.BatchNorm1d``. It is none, because SpeechBrain
    turns those into ``SyncBatchNorm``, which DDP refuses on CPUs.

    Args:
        like: whose features, eps and momentum it has; weights and statistics begin anew.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, like: nn.BatchNorm1d) -> None:
        super().__init__(like.num_features, like.eps, like.momentum)

    def forward(self, x_BTD: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Normalises frames, in training by the statistics of the batch, else by the running ones.

        Args:
            x_BTD: features.
            padding_BT: True = padded; None = all are real. In training they come out as zero.
        """
        running = self.running_mean, self.running_var
        if not self.training:
            flat_MD = x_BTD.flatten(0, 1)
            y_MD = nn.functional.batch_norm(flat_MD, *running, self.weight, self.bias, eps=self.eps)
            return y_MD.view_as(x_BTD)
        self.num_batches_tracked += 1
        affine = self.weight, self.bias
        return batch_norm(x_BTD, padding_BT, *affine, *running, self.momentum, self.eps)


def mask_batch_norms(network: nn.Module) -> None:
    """Puts `MaskedBatchNorm` into SpeechBrain's layers; ``layer.norm(x_BTD, padding_BT)`` calls it.

    Args:
        network: with ``speechbrain.nnet.normalization.BatchNorm1d`` in it; changed in place.
    """
    for layer in network.modules():
        if isinstance(layer, BatchNorm1d):
            layer.norm = MaskedBatchNorm(layer.norm)
