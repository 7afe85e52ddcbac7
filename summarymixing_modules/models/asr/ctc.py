"""An acoustic model for CTC: front end, encoder, one output layer.

Shape suffixes: B batch, T frames, F features, L samples, V vocabulary.
"""

from __future__ import annotations

import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.describe import describable
from summarymixing_modules.models.transformer_asr import TransformerASR


@describable
class CTCModel(AcousticEncoder):
    """Features to log-probabilities of tokens; one module, so that DDP wraps it once.

    Args:
        frontend: (x_BTF, lengths_B) → (y_BTD, lengths_B), as in models/frontend.py.
        transformer: the encoder; its decoder, if it has one, is not used.
        output_neurons: vocabulary V, blank included.
    """

    def __init__(
        self, frontend: nn.Module, transformer: TransformerASR, output_neurons: int
    ) -> None:
        super().__init__(frontend, transformer)
        self.output = nn.Linear(self.encoder_size, output_neurons)

    def forward(
        self,
        x_BTF: Tensor,
        lengths_B: Tensor,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores tokens.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.
            dynchunktrain_config: chunk size in frames and left context in chunks.

        Returns:
            log-probabilities (B, T, V) in float32, and the real frames of each.
        """
        x_BTD, lengths_B = self.encode(x_BTF, lengths_B, dynchunktrain_config)
        return self.output(x_BTD).float().log_softmax(dim=-1), lengths_B


def feature_lengths(samples_B: Tensor, hop: int, frames: int) -> Tensor:
    """Real frames of SpeechBrain's centred filterbanks: one for every started hop.

    Args:
        samples_B: real samples of each utterance.
        hop: samples between frames.
        frames: frames of the padded batch, an upper limit.
    """
    whole_B = torch.div(samples_B, hop, rounding_mode="floor")
    return (whole_B + 1).clamp(max=frames)
