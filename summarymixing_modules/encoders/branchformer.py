"""Branchformer (arXiv 2207.02971) with any mixer where self-attention was."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.lobes.models.transformer import Branchformer
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders.base import (
    LayerStreamingContext,
    MixerEncoder,
    chunk_arguments,
    step_mixer,
)
from summarymixing_modules.encoders.convolution import MaskedConvolutionBranch
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerSize, build_mixer

PAPER_MERGE = {"SummaryMixing": "mlp"}


class BranchformerEncoderLayer(Branchformer.BranchformerEncoderLayer):
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
        merge: "linear", one Linear 2D → D; "mlp", 2D → D → D with an activation after each;
            "paper", what arXiv 2307.07421 uses: "mlp" with SummaryMixing, nothing without a mixer,
            else "linear".
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
        merge: str = "paper",
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
        )
        self.mixes = self.mha_layer.capabilities.mixes
        if self.mixes:
            if merge == "paper":
                merge = PAPER_MERGE.get(attention_type, "linear")
            self.merge_proj = _make_merge(merge, d_model, activation)
        elif merge == "paper":
            del self.norm_mhsa, self.merge_proj
        else:
            raise InputError(
                f"merge={merge!r} has nothing to merge with attention_type={attention_type!r}, "
                "which leaves one branch: leave merge at 'paper'."
            )

    def forward(
        self,
        x: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward``; ``src_mask`` was refused there."""
        chunk_size, left_context_size = chunk_arguments(dynchunktrain_config)
        padding = src_key_padding_mask
        mixed = None
        if self.mixes:
            mixed = self.mha_layer(
                self.norm_mhsa(x), padding, chunk_size, left_context_size, pos_embs
            )
        local = self.convolution_branch(self.norm_conv(x), padding, chunk_size)
        return self._merge(x, mixed, local), None

    def forward_streaming(
        self,
        x: Tensor,
        context: LayerStreamingContext,
        left_context_size: int | None = None,
        src_key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """See ``MixerEncoder.forward_streaming``."""
        padding = src_key_padding_mask
        mixed = None
        if self.mixes:
            mixed = step_mixer(
                self.mha_layer, self.norm_mhsa(x), context, left_context_size, padding
            )
        local = self.convolution_branch.forward_streaming(self.norm_conv(x), context, padding)
        return self._merge(x, mixed, local), None

    def _merge(self, x: Tensor, mixed: Tensor | None, local: Tensor) -> Tensor:
        if mixed is None:
            return x + self.dropout(local)
        both = torch.cat([self.dropout(mixed), self.dropout(local)], dim=-1)
        return x + self.dropout(self.merge_proj(both))


def _make_merge(merge: str, d_model: int, activation: type[nn.Module]) -> nn.Module:
    if merge == "linear":
        return nn.Linear(2 * d_model, d_model)
    if merge == "mlp":
        return nn.Sequential(
            nn.Linear(2 * d_model, d_model),
            activation(),
            nn.Linear(d_model, d_model),
            activation(),
        )
    raise ValueError(f"unknown merge {merge!r}. Known: linear, mlp, paper.")


class BranchformerEncoder(MixerEncoder):
    """A stack of Branchformer layers. Argument names and call are SpeechBrain's.

    Args:
        num_layers: how many layers.
        d_model, nhead, kernel_size, activation, dropout, attention_type, csgu_linear_units,
            gate_activation, use_linear_after_conv, merge: see ``BranchformerEncoderLayer``.
        output_hidden_states: also return the input and the output of every layer.
        layerdrop_prob: probability of leaving a layer out of a training step.
        activation_checkpointing: compute activations again in the backward pass instead of keeping
            them.
        **mixer_options: options of the mixer.
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        nhead: int,
        kernel_size: int = 31,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.0,
        attention_type: str = "SummaryMixing",
        csgu_linear_units: int = 3072,
        gate_activation: type[nn.Module] = nn.Identity,
        use_linear_after_conv: bool = False,
        merge: str = "paper",
        output_hidden_states: bool = False,
        layerdrop_prob: float = 0.0,
        activation_checkpointing: bool = False,
        **mixer_options: Any,
    ) -> None:
        def make_layer() -> BranchformerEncoderLayer:
            return BranchformerEncoderLayer(
                d_model,
                nhead,
                kernel_size,
                activation,
                dropout,
                attention_type,
                csgu_linear_units,
                gate_activation,
                use_linear_after_conv,
                merge,
                **mixer_options,
            )

        super().__init__(
            make_layer,
            num_layers,
            d_model,
            attention_type,
            output_hidden_states,
            layerdrop_prob,
            activation_checkpointing,
        )
