"""What every model on speech begins with: a front end and an encoder.

Shape suffixes: B batch, T frames, F features, D model features.
"""

from __future__ import annotations

from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.models.transformer_asr import TransformerASR


class AcousticEncoder(nn.Module):
    """Base of the models: features to encoder output.

    Args:
        frontend: (x_BTF, lengths_B) → (y_BTD, lengths_B), as in models/frontend.py.
        transformer: has the encoder.

    Attributes:
        encoder_size: features D of the encoder's output.
    """

    def __init__(self, frontend: nn.Module, transformer: TransformerASR) -> None:
        super().__init__()
        self.frontend = frontend
        self.transformer = transformer
        self.encoder_size: int = transformer.encoder.norm.norm.normalized_shape[0]

    def encode(
        self,
        x_BTF: Tensor,
        lengths_B: Tensor,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encodes utterances.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.
            dynchunktrain_config: chunk size in frames and left context in chunks.

        Returns:
            encoder output (B, T, D) and the real frames of each.
        """
        x_BTD, lengths_B = self.frontend(x_BTF, lengths_B)
        encoded = self.transformer.encode(
            x_BTD, lengths_B / x_BTD.shape[1], dynchunktrain_config=dynchunktrain_config
        )
        return (encoded[0] if isinstance(encoded, tuple) else encoded), lengths_B
