"""ContextNet (arXiv 2005.03191), the convolutional baseline of arXiv 2307.07421, blind to padding.

The network is SpeechBrain's, with its parameters and their names, so weights move between the two.
Three things that stock modules let padding into are closed here:

* convolutions: padded frames and the outside count as zero (SpeechBrain reflects at the edges);
* squeeze-and-excitation: the mean over time is that of the real frames;
* batch norm: in training its statistics are those of the real frames, of all processes together.

In evaluation an utterance therefore comes out the same alone and beside others. In training it
cannot: batch norm normalises with the statistics of the whole batch, so an utterance changes with
the other utterances. It does not change with the amount of padding, and padding does not get into
the running statistics.

Shape suffixes: B batch, T frames, F and D features.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from speechbrain.lobes.models.ContextNet import ContextNetBlock, SEmodule
from speechbrain.nnet.activations import Swish
from speechbrain.nnet.CNN import Conv1d, DepthwiseSeparableConv1d
from speechbrain.nnet.normalization import BatchNorm1d, LayerNorm
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders.batch_norm import mask_batch_norms
from summarymixing_modules.encoders.checkpointing import run_layer
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import mixer_spec
from summarymixing_modules.ops.summary import masked, utterance_mean

WIDTHS = (256, 512)
NARROW_BLOCKS = 10  # of the paper's 21; the others are wide
WHOLE_UTTERANCE = (
    "ContextNet averages over the whole utterance (squeeze-and-excitation): it has neither chunks, "
    "streaming nor a causal form. Choose encoder_module=conformer, branchformer or transformer."
)


class MaskedContextNetBlock(ContextNetBlock):
    """SpeechBrain's block: convolutions, squeeze-and-excitation, residual convolution, Swish."""

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Maps (B, T, F) and its mask to (B, T / stride, D) and its mask."""
        out, after = x, padding
        layers = list(self.Convs.values())
        for conv, norm in zip(layers[::2], layers[1::2], strict=True):
            out = conv(masked(out, after))
            after = _strided(after, conv.depthwise.stride)
            out = norm.norm(out, after)
        out = _squeeze_and_excite(self.SE, out, after)
        if self.reduced_cov is not None:
            conv, norm = self.reduced_cov.values()
            out = out + norm.norm(conv(masked(x, padding)), after)
        return self.drop(self.activation(out)), after


def _strided(padding_BT: Tensor | None, stride: int) -> Tensor | None:
    """The mask after a convolution with a stride: frame t comes from around frame stride · t."""
    return None if padding_BT is None else padding_BT[:, ::stride]


def _squeeze_and_excite(module: SEmodule, x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
    """arXiv 2005.03191, eq. (2), as SpeechBrain has it."""
    conv, norm, activation = module.conv.values()
    x_BTD = activation(norm.norm(conv(x_BTD), padding_BT))
    return x_BTD * module.bottleneck(utterance_mean(x_BTD, padding_BT)[:, None])


class ContextNet(nn.Module):
    """SpeechBrain's ContextNet with a padding mask. Defaults are SpeechBrain's.

    Args:
        input_size: features F.
        out_channels: output features D.
        conv_channels: width of each block; None = 256 for the first ten, then 512.
        kernel_size: of the depthwise convolutions; odd.
        strides: of each block; None = 2 in the 3rd, 7th and 14th, which divides the frames by 8.
        num_blocks: between the first and the last convolution.
        num_layers: convolutions of a block.
        inner_dim: hidden features of squeeze-and-excitation.
        alpha: factor of ``conv_channels``.
        dropout: after every block.
        activation: class.
        activation_checkpointing: compute the activations of the blocks again in the backward pass
            instead of keeping them.

    Raises:
        InputError: an even kernel, or not one width and one stride for every block.
    """

    def __init__(
        self,
        input_size: int,
        out_channels: int = 640,
        conv_channels: Sequence[int] | None = None,
        kernel_size: int = 3,
        strides: Sequence[int] | None = None,
        num_blocks: int = 21,
        num_layers: int = 5,
        inner_dim: int = 12,
        alpha: float = 1.0,
        dropout: float = 0.15,
        activation: type[nn.Module] = Swish,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        if kernel_size % 2 == 0:
            raise InputError(f"kernel_size={kernel_size} of ContextNet must be odd.")
        if conv_channels is None:
            conv_channels = [WIDTHS[block >= NARROW_BLOCKS] for block in range(num_blocks)]
        if strides is None:
            strides = [2 if block in (2, 6, 13) else 1 for block in range(num_blocks)]
        for name, values in (("conv_channels", conv_channels), ("strides", strides)):
            if len(values) != num_blocks:
                raise InputError(
                    f"{name} has {len(values)} values: give one for each of the num_blocks="
                    f"{num_blocks} blocks."
                )
        # SpeechBrain finds sizes by running layers on a dummy input of this many frames.
        self._dummy_frames = kernel_size
        width = conv_channels[0]
        self._add_convolution("start", input_size, width, kernel_size, activation)
        for index in range(num_blocks):
            channels = int(conv_channels[index] * alpha)
            block = MaskedContextNetBlock(
                channels,
                kernel_size,
                num_layers,
                inner_dim,
                self._shape(width),
                strides[index],
                dropout=dropout,
                activation=activation,
            )
            self.add_module(f"block_{index}", block)
            width = channels
        self._add_convolution("end", width, out_channels, kernel_size, activation)
        self.num_blocks = num_blocks
        self._prepare()

    def _shape(self, features: int) -> tuple[int, int, int]:
        return (1, self._dummy_frames, features)

    def _add_convolution(
        self, name: str, inputs: int, outputs: int, kernel_size: int, activation: type[nn.Module]
    ) -> None:
        conv = DepthwiseSeparableConv1d(outputs, kernel_size, self._shape(inputs))
        self.add_module(f"conv_{name}", conv)
        self.add_module(f"norm_{name}", BatchNorm1d(input_size=outputs))
        self.add_module(f"act_{name}", activation())

    def _prepare(self) -> None:
        for module in self.modules():
            if isinstance(module, Conv1d):
                module.padding_mode = "constant"
        mask_batch_norms(self)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Encodes utterances.

        Args:
            x: (B, T, F).
            padding: (B, T), True = padded.

        Returns:
            (B, T′, D) and its mask (B, T′), with T′ = T divided by all strides, rounded up.
        """
        return deque(self.stages(x, padding), maxlen=1).pop()

    def stages(self, x: Tensor, padding: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """First convolution, every block, last convolution: the output and its mask."""
        x = self._convolve("start", x, padding)
        yield x, padding
        for index in range(self.num_blocks):
            block = self.get_submodule(f"block_{index}")
            x, padding = run_layer(block, self.activation_checkpointing, x, padding)
            yield x, padding
        yield self._convolve("end", x, padding), padding

    def _convolve(self, name: str, x: Tensor, padding: Tensor | None) -> Tensor:
        conv: Any = self.get_submodule(f"conv_{name}")
        norm: Any = self.get_submodule(f"norm_{name}")
        activation = self.get_submodule(f"act_{name}")
        return activation(norm.norm(conv(masked(x, padding)), padding))


class ContextNetEncoder(nn.Module):
    """ContextNet where an encoder of mixers could be: as many frames out as in, D features each.

    Its strides are 1, as in the probe of MP3S: the front end before it has divided the frames by 4
    already, and encoders may not change the lengths. As in every encoder here a LayerNorm ends it,
    2·D parameters that the paper's network does not have.

    Args:
        d_model: features D of the input and of the output; 640 in the paper.
        num_blocks, conv_channels, kernel_size, num_layers, inner_dim, alpha, dropout, activation,
            activation_checkpointing: see ``ContextNet``.
        attention_type: must be "cnnonly".
        output_hidden_states: also return the input and the output of every stage (first
            convolution, blocks, last convolution); their widths differ.
        **mixer_options: must be empty.

    Raises:
        InputError: another ``attention_type``, or options: there is no mixer in a ContextNet.
    """

    positions = "none"

    def __init__(
        self,
        d_model: int = 640,
        num_blocks: int = 21,
        conv_channels: Sequence[int] | None = None,
        kernel_size: int = 3,
        num_layers: int = 5,
        inner_dim: int = 12,
        alpha: float = 1.0,
        dropout: float = 0.15,
        activation: type[nn.Module] = Swish,
        attention_type: str = "cnnonly",
        output_hidden_states: bool = False,
        activation_checkpointing: bool = False,
        **mixer_options: Any,
    ) -> None:
        super().__init__()
        if mixer_spec(attention_type).capabilities.mixes:
            raise InputError(
                f"ContextNet has no mixer, so attention_type={attention_type!r} cannot be put into "
                "it: give attention_type=cnnonly."
            )
        if mixer_options:
            raise InputError(
                f"ContextNet has no mixer, so mixer_options={mixer_options} have no use: leave "
                "them out."
            )
        self.attention_type = attention_type
        self.output_hidden_states = output_hidden_states
        self.network = ContextNet(
            d_model,
            d_model,
            conv_channels,
            kernel_size,
            [1] * num_blocks,
            num_blocks,
            num_layers,
            inner_dim,
            alpha,
            dropout,
            activation,
            activation_checkpointing,
        )
        self.norm = LayerNorm(d_model, eps=1e-6)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> tuple[Tensor, list[None]] | tuple[Tensor, list[None], list[Tensor]]:
        """Encodes utterances; arguments and results as in ``MixerEncoder.forward``.

        Raises:
            InputError: chunks.
            ValueError: a mask or positions, which a convolution cannot use.
        """
        if dynchunktrain_config is not None:
            raise InputError(WHOLE_UTTERANCE)
        if src_mask is not None or pos_embs is not None:
            raise ValueError("ContextNet uses neither src_mask nor pos_embs: leave them None.")
        stages = self.network.stages(src, src_key_padding_mask)
        outputs = deque((x for x, _ in stages), maxlen=None if self.output_hidden_states else 1)
        output, weights = self.norm(outputs[-1]), [None] * (self.network.num_blocks + 2)
        if self.output_hidden_states:
            return output, weights, [src, *outputs]
        return output, weights

    def make_streaming_context(self, dynchunktrain_config: DynChunkTrainConfig) -> NoReturn:
        """Refuses: ContextNet does not stream.

        Raises:
            InputError: always.
        """
        raise InputError(WHOLE_UTTERANCE)

    def forward_streaming(self, src: Tensor, context: Any) -> NoReturn:
        """Refuses: ContextNet does not stream.

        Raises:
            InputError: always.
        """
        raise InputError(WHOLE_UTTERANCE)
