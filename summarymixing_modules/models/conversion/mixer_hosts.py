"""The layers of a built model that host a mixer, and what they would tell one about themselves."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

from speechbrain.lobes.models.transformer.Branchformer import BranchformerEncoderLayer
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoderLayer
from speechbrain.lobes.models.transformer.Transformer import (
    TransformerEncoderLayer,
    TransformerInterface,
)
from torch import nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerAdapter, MixerSize

SLOTS: dict[type[nn.Module], str] = {
    ConformerEncoderLayer: "mha_layer",
    BranchformerEncoderLayer: "mha_layer",
    TransformerEncoderLayer: "self_att",
}


@dataclass(frozen=True)
class MixerHost:
    """An encoder layer of this package or of SpeechBrain, inside a model.

    Attributes:
        index: its place among the hosts of the model.
        path: its path in the model.
        layer: the layer.
        slot: the attribute that holds its mixer, or its attention.
        ancestors: the modules that it lies in, from the outermost to the innermost.
    """

    index: int
    path: str
    layer: nn.Module
    slot: str
    ancestors: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        """The path, or the class of a layer that is the whole model."""
        return self.path or type(self.layer).__name__

    @property
    def mixer_path(self) -> str:
        """Path of the mixer in the model."""
        return f"{self.path}.{self.slot}".lstrip(".")

    @property
    def hosted(self) -> nn.Module:
        """What the slot holds: a mixer, an adapter around one, or SpeechBrain's attention.

        Raises:
            InputError: the layer was built without a mixer.
        """
        if not getattr(self.layer, "mixes", True) or not hasattr(self.layer, self.slot):
            raise InputError(
                f"the layer {self.name} was built without a mixer and without what goes with one "
                "(its LayerNorm), so none can be put in: build the model with another "
                "attention_type."
            )
        return getattr(self.layer, self.slot)

    @property
    def mixer(self) -> nn.Module:
        """The mixer or attention itself."""
        return self.hosted.mixer if isinstance(self.hosted, MixerAdapter) else self.hosted

    @property
    def model(self) -> TransformerInterface | None:
        """The innermost model of SpeechBrain around the layer."""
        models = [one for one in self.ancestors if isinstance(one, TransformerInterface)]
        return models[-1] if models else None

    @property
    def encoder(self) -> nn.Module | None:
        """The module whose ``layers`` hold the layer."""
        for one in reversed(self.ancestors):
            layers = getattr(one, "layers", None)
            if isinstance(layers, nn.ModuleList) and any(x is self.layer for x in layers):
                return one
        return None

    @property
    def adds_positions(self) -> bool:
        """The model adds absolute positions to the input of its encoder, as far as can be seen."""
        model = self.model
        if model is None:
            return False
        stock = model.attention_type == "regularMHA" and bool(model.positional_encoding_type)
        return bool(getattr(model, "absolute_positions", stock))

    def size(self, nhead: int | None) -> MixerSize:
        """What the layer would tell a mixer, read from its parts.

        Args:
            nhead: heads; None = those of the mixer that is there.

        Raises:
            InputError: no mixer, or one without heads.
        """
        d_model, d_ffn, dropout, activation = _dimensions(self.layer)
        flags: tuple[object, ...] = (
            getattr(getattr(self.layer, "convolution_module", None), "causal", False),
            getattr(self.mixer, "causal", False),
            getattr(self.mixer, "mask_pos_future", False),
            getattr(self.model, "causal", False),
        )
        return MixerSize(
            d_model,
            self._heads() if nhead is None else nhead,
            d_ffn,
            dropout,
            functools.partial(copy.deepcopy, activation),
            causal=any(flags),
        )

    def _heads(self) -> int:
        # Some keep their heads one level deeper, as SpeechBrain's regularMHA does.
        for module in self.mixer.modules():
            for name in ("nhead", "num_heads"):
                heads = getattr(module, name, None)
                if isinstance(heads, int):
                    return heads
        raise InputError(
            f"{type(self.mixer).__name__} in {self.mixer_path} has no heads, so those of the new "
            "mixer cannot be told: pass nhead (a mixer without heads does not look at it)."
        )


def _dimensions(layer: Any) -> tuple[int, int, float, nn.Module]:
    """Features, hidden size of the feed-forward layers, dropout and activation of a layer."""
    if isinstance(layer, ConformerEncoderLayer):
        feed_forward = layer.ffn_module1[1].ffn
        d_model = layer.norm2.norm.normalized_shape[0]
        return d_model, feed_forward[0].out_features, layer.drop.p, feed_forward[1]
    if isinstance(layer, BranchformerEncoderLayer):
        d_model = layer.norm_conv.norm.normalized_shape[0]
        # As SpeechBrain's Branchformer tells its hypermixing.
        return d_model, 4 * d_model, layer.dropout.p, layer.convolution_branch.activation
    d_model = layer.norm1.norm.normalized_shape[0]
    if layer.pos_ffn_type == "1dcnn":
        return d_model, layer.pos_ffn[0].conv.out_channels, layer.dropout1.p, layer.pos_ffn[1]
    feed_forward = layer.pos_ffn.ffn
    return d_model, feed_forward[0].out_features, layer.dropout1.p, feed_forward[1]


def find_hosts(model: nn.Module) -> list[MixerHost]:
    """The layers of a model that host a mixer, in the order of ``named_modules``.

    Raises:
        InputError: there is none; the message says what was looked for.
    """
    modules = dict(model.named_modules())
    hosts: list[MixerHost] = []
    for path, module in modules.items():
        slot = next((slot for kind, slot in SLOTS.items() if isinstance(module, kind)), None)
        if slot is None:
            continue
        parts = path.split(".") if path else []
        around = tuple(modules[".".join(parts[:depth])] for depth in range(len(parts)))
        hosts.append(MixerHost(len(hosts), path, module, slot, around))
    if not hosts:
        raise InputError(
            f"{type(model).__name__} holds no layer that hosts a mixer. Looked for SpeechBrain's "
            f"{', '.join(kind.__name__ for kind in SLOTS)} and what is derived from them "
            "(summarymixing_modules.encoders): pass the model that holds the encoder."
        )
    return hosts
