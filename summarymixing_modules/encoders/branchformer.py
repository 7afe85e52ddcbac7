"""Branchformer (arXiv 2207.02971) with any mixer where self-attention was."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.lobes.models.transformer import Branchformer
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders.base import EncoderStreamingContext, MixerEncoder
from summarymixing_modules.encoders.convolution import MaskedConvolutionBranch
from summarymixing_modules.encoders.layer import Frames, MixerLayer
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerSize, build_mixer

PAPER_MERGE = {"SummaryMixing": "mlp"}


class BranchformerEncoderLayer(MixerLayer, Branchformer.BranchformerEncoderLayer):
    """A mixer and a gated convolution side by side, merged by a projection.

    Without a mixer (``attention_type="cnnonly"``) the convolution is added to the input as it is:
    x + cgMLP(x), "CNN only" in arXiv 2307.07421.

    Args:
        d_model: features D.
        nhead: heads of the mixer.
        kernel_size: frames of the depthwise convolution; odd.
        activation: class.
        dropout: everywhere.
        attention_type: name of the mixer.
        csgu_linear_units: hidden size of the convolution branch.
        gate_activation: class, on the gate.
        use_linear_after_conv: a Linear on the gate.
        padding_mode: what the convolution finds outside an utterance, "zeros" or "reflect"; the
            latter is SpeechBrain's and the papers', and takes no chunks.
        merge: "linear", one Linear 2D → D; "mlp", 2D → W → D with an activation after each;
            "paper", what arXiv 2307.07421 uses: "mlp" with SummaryMixing, nothing without a mixer,
            else "linear".
        merge_width: W; None = D.
        **mixer_options: options of the mixer.

    Raises:
        ValueError: unknown ``merge``, or (``InputError``) one that has nothing to merge.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        kernel_size: int = 31,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.0,
        attention_type: str = "SummaryMixing",
        csgu_linear_units: int = 3072,
        gate_activation: type[nn.Module] = nn.Identity,
        use_linear_after_conv: bool = False,
        padding_mode: str = "zeros",
        merge: str = "paper",
        merge_width: int | None = None,
        **mixer_options: Any,
    ) -> None:
        # SpeechBrain makes no attention layer for a name that it does not know.
        super().__init__(
            d_model,
            nhead,
            kernel_size,
            activation=activation,
            dropout=dropout,
            attention_type="none",
            csgu_linear_units=csgu_linear_units,
            gate_activation=gate_activation,
            use_linear_after_conv=use_linear_after_conv,
        )
        # Where a mixer asks for the feed-forward size of its host, it gets SpeechBrain's 4D.
        size = MixerSize(d_model, nhead, 4 * d_model, dropout, activation)
        self.mha_layer = build_mixer(attention_type, size, **mixer_options)
        self.convolution_branch = MaskedConvolutionBranch(
            d_model,
            csgu_linear_units,
            kernel_size,
            activation,
            gate_activation,
            dropout,
            use_linear_after_conv,
            padding_mode,
        )
        self.mixes = self.mha_layer.capabilities.mixes
        if self.mixes:
            if merge == "paper":
                merge = PAPER_MERGE.get(attention_type, "linear")
            self.merge_proj = _make_merge(merge, d_model, merge_width or d_model, activation)
        elif merge == "paper":
            del self.norm_mhsa, self.merge_proj
        else:
            raise InputError(
                f"merge={merge!r} has nothing to merge with attention_type={attention_type!r}, "
                "which leaves one branch: leave merge at 'paper'."
            )

    def run(self, x: Tensor, frames: Frames) -> Tensor:
        """See ``MixerLayer.run``."""
        mixed = frames.mix(self.mha_layer, self.norm_mhsa(x)) if self.mixes else None
        local = self.convolution_branch(self.norm_conv(x), frames)
        if mixed is None:
            return x + self.dropout(local)
        both = torch.cat([self.dropout(mixed), self.dropout(local)], dim=-1)
        return x + self.dropout(self.merge_proj(both))


def _make_merge(merge: str, d_model: int, width: int, activation: type[nn.Module]) -> nn.Module:
    if merge == "linear":
        return nn.Linear(2 * d_model, d_model)
    if merge == "mlp":
        return nn.Sequential(
            nn.Linear(2 * d_model, width),
            activation(),
            nn.Linear(width, d_model),
            activation(),
        )
    raise ValueError(f"unknown merge {merge!r}. Known: linear, mlp, paper.")


class BranchformerEncoder(MixerEncoder):
    """A stack of ``BranchformerEncoderLayer``; arguments as in ``MixerEncoder``."""

    layer_class = BranchformerEncoderLayer

    def make_streaming_context(
        self, dynchunktrain_config: DynChunkTrainConfig
    ) -> EncoderStreamingContext:
        """See ``MixerEncoder``.

        Raises:
            InputError: convolutions that reflect.
        """
        if self.layers[0].convolution_branch.csgu.padding_mode == "reflect":  # type: ignore[union-attr]
            raise InputError(
                "padding_mode=reflect: a Branchformer that reflects the end of an utterance cannot "
                "stream, as it is not known yet: train with padding_mode=zeros."
            )
        return super().make_streaming_context(dynchunktrain_config)
