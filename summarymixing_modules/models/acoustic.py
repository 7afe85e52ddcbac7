"""What every model on speech begins with: a front end and an encoder.

Shape suffixes: B batch, T frames, F features, D model features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.models.describe import describable, describe
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.transformer_asr import TransformerASR

#: Arguments of the transformer that tell encoders apart.
ARCHITECTURE = (
    "encoder_module",
    "attention_type",
    "d_model",
    "nhead",
    "num_encoder_layers",
    "d_ffn",
)


@dataclass(frozen=True)
class HiddenStates:
    """What an encoder makes of a batch, layer by layer.

    Attributes:
        states: N + 1 tensors (B, T, D) for N layers: the input of the first layer, then the output
            of every layer, before the final norm. (ContextNet: of every stage, of its own width.)
        output_BTD: output of the encoder: the last state after the final norm.
        lengths_B: real frames of each utterance.
    """

    states: tuple[Tensor, ...]
    output_BTD: Tensor
    lengths_B: Tensor


@describable
class AcousticEncoder(nn.Module):
    """Base of the models: features to encoder output. Alone it is a pre-trained encoder.

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

    def hidden_states(self, x_BTF: Tensor, lengths_B: Tensor) -> HiddenStates:
        """Encodes utterances and keeps what every layer says.

        No layer is dropped, in training mode either: there are always as many states.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.
        """
        x_BTD, lengths_B = self.frontend(x_BTF, lengths_B)
        with _all_states(self.transformer.encoder):
            output_BTD, _, states = self.transformer.encoder(
                src=self.transformer.embed(x_BTD, 0),
                src_key_padding_mask=lengths_to_padding(lengths_B, x_BTD.shape[1]),
            )
        return HiddenStates(tuple(states), output_BTD, lengths_B)

    def architecture(self) -> dict[str, Any]:
        """Names and sizes that tell encoders apart, under the names of the recipes' flags."""
        return architecture_of(describe(self.transformer))


def architecture_of(transformer: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of an encoder whose transformer is described, see ``models.describe``."""
    arguments = transformer["arguments"]
    found = {key: arguments[key] for key in ARCHITECTURE}
    if found["attention_type"] == "SummaryMixing":
        options = (arguments["mixer_options"] or {"mapping": {}})["mapping"]
        found["mode"] = options.get("mode", "SummaryMixing")
    return found


@contextlib.contextmanager
def _all_states(encoder: nn.Module) -> Iterator[None]:
    """Makes an encoder return the states of all its layers, for one call."""
    wanted = {"output_hidden_states": True, "layerdrop_prob": 0.0}
    kept = {key: getattr(encoder, key) for key in wanted if hasattr(encoder, key)}
    try:
        for key in kept:
            setattr(encoder, key, wanted[key])
        yield
    finally:
        for key, value in kept.items():
            setattr(encoder, key, value)
