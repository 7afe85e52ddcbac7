"""A pre-trained encoder with an output network for CTC on top.

Shape suffixes: as in models/ctc.py.
"""

from __future__ import annotations

from torch import nn

from summarymixing_modules.models.asr.ctc import CTCModel
from summarymixing_modules.models.describe import describable
from summarymixing_modules.models.transformer_asr import TransformerASR


@describable
class FineTunedModel(CTCModel):
    """A CTC model whose output layer is a small network, the head.

    Fine-tuning of arXiv 2409.02596: 3 × (Linear 1280, LayerNorm, LeakyReLU), dropout 0.15 between
    them, Linear.

    Args:
        frontend: of the pre-trained encoder.
        transformer: of the pre-trained encoder.
        output_neurons: vocabulary V, blank included.
        head_size: features of the head's hidden layers.
        head_layers: how many.
        head_dropout: after each of them but the last.
    """

    def __init__(
        self,
        frontend: nn.Module,
        transformer: TransformerASR,
        output_neurons: int,
        head_size: int = 1280,
        head_layers: int = 3,
        head_dropout: float = 0.15,
    ) -> None:
        super().__init__(frontend, transformer, output_neurons)
        sizes = [self.encoder_size] + [head_size] * head_layers
        blocks: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            blocks += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs)]
            blocks += [nn.LeakyReLU(), nn.Dropout(head_dropout)]
        del blocks[-1:]
        # Where CTCModel has its layer: whatever decodes or streams the one does the other.
        self.output = nn.Sequential(  # type: ignore[assignment]
            *blocks, nn.Linear(sizes[-1], output_neurons)
        )
        self.encoder_frozen = False

    def encoder_parts(self) -> nn.ModuleList:
        """The pre-trained part; the head is ``output``."""
        return nn.ModuleList([self.frontend, self.transformer])

    def freeze_encoder(self) -> None:
        """No training changes the encoder from now on: no gradients, no dropout, no statistics."""
        self.encoder_frozen = True
        self.encoder_parts().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FineTunedModel:
        """As any module's; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder_parts().eval()
        return self
