"""What the weights of an encoder or a decoder start from: `INITIALISATIONS`, by name.

Outside mixers every matrix is Xavier-normal, as in SpeechBrain's ``TransformerASR``. The name says
what mixers start from; normalisations and the biases outside mixers stay as their layers make them.

Shape suffixes: N heads, I inputs of a head, O outputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Mixer
from summarymixing_modules.mixers.hypermixing import HyperMixing
from summarymixing_modules.mixers.layers import BlockLinear
from summarymixing_modules.mixers.mamba import Mamba
from summarymixing_modules.mixers.pom import PoM
from summarymixing_modules.mixers.summary_mixing import SummaryMixing
from summarymixing_modules.mixers.summary_options import FAST, LITE


def check_initialisation(name: str) -> None:
    """Refuses an unknown name.

    Raises:
        InputError: names those that there are.
    """
    if name not in INITIALISATIONS:
        raise InputError(f"unknown initialisation {name!r}. Known: {', '.join(INITIALISATIONS)}.")


@torch.no_grad()
def initialise(module: nn.Module, name: str) -> None:
    """Draws the weights of an encoder, a decoder or a part of one.

    Args:
        module: its mixers are as they were made.
        name: one of `INITIALISATIONS`.
    """
    mixers = [part for part in module.modules() if isinstance(part, Mixer)]
    inside = {id(parameter) for mixer in mixers for parameter in mixer.parameters()}
    for parameter in module.parameters():
        if parameter.dim() > 1 and id(parameter) not in inside:
            nn.init.xavier_normal_(parameter)
    for mixer in mixers:
        INITIALISATIONS[name](mixer)


def _as_published(mixer: Mixer) -> None:
    """As SpeechBrain's ``TransformerASR`` draws again what has more than one dimension.

    Layers of heads side by side are there tensors of three dimensions, of which Xavier's rule takes
    the second as inputs, the first as outputs, and the third as the size of a convolution; their
    biases have two dimensions and are drawn, too. f and s of the fast mode are one Linear. Mamba's
    A_log is drawn like the rest, which makes every state decay at about one rate.
    """
    for parameter in mixer.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
    together = isinstance(mixer, SummaryMixing) and mixer.mode == FAST
    for weight_NIO, bias_N1O in _block_layers(mixer, together):
        heads, inputs, outputs = weight_NIO.shape
        if heads == 1 and not isinstance(mixer, HyperMixing):
            _xavier_normal(weight_NIO, inputs + outputs)
            bias_N1O.zero_()
            continue
        last = inputs if isinstance(mixer, HyperMixing) else outputs
        _xavier_normal(weight_NIO, inputs * outputs + heads * last)
        _xavier_normal(bias_N1O, heads + outputs)
    _draw_combiner(mixer)


def _as_made(mixer: Mixer) -> None:
    """The initialisation of the mixer itself."""


def _block_by_block(mixer: Mixer) -> None:
    """Every Linear Xavier-normal with zero biases; those that are stored as one, one by one.

    These are the heads of f and of s, queries, keys and values, and the degrees of PoM. Mamba's
    initialisation is part of its method (arXiv 2312.00752, §3.6) and stays.
    """
    if isinstance(mixer, Mamba):
        return
    for part in mixer.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                part.bias.zero_()
        in_proj_weight = getattr(part, "in_proj_weight", None)
        if in_proj_weight is not None:
            for weight in in_proj_weight.chunk(3):
                nn.init.xavier_normal_(weight)
    for weight_NIO, bias_N1O in _block_layers(mixer, together=False):
        _xavier_normal(weight_NIO, sum(weight_NIO.shape[1:]))
        bias_N1O.zero_()
    if isinstance(mixer, PoM):
        for weight in mixer.factors.weight.chunk(mixer.degree):
            nn.init.xavier_normal_(weight)
    _draw_combiner(mixer)


def _block_layers(mixer: Mixer, together: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights (N, I, O) and biases (N, 1, O) of every layer of heads side by side.

    Args:
        mixer: whose layers.
        together: the first layers of SummaryMixing's f and s, stored as one, count as one.
    """
    for layer in mixer.modules():
        if not isinstance(layer, BlockLinear):
            continue
        outputs, width = layer.weight.shape[2], 0
        if isinstance(mixer, SummaryMixing) and layer is mixer.input_proj and not together:
            width = mixer.local_width
        for part in (slice(0, width), slice(width, outputs)):
            if part.start < part.stop:
                yield layer.weight[..., part], layer.bias[..., part]


def _draw_combiner(mixer: Mixer) -> None:
    """c of SummaryMixing as the one Linear that its parts are together, with a zero bias."""
    if not isinstance(mixer, SummaryMixing) or mixer.mode == LITE:
        return
    parts = mixer.combiner_parts()  # any may be absent, or all
    fans = mixer.enc_dim + sum(part.in_features for part in parts)
    for part in parts:
        _xavier_normal(part.weight, fans)
        if part.bias is not None:
            part.bias.zero_()


def _xavier_normal(weight: Tensor, fans: int) -> None:
    """Normal numbers as Glorot and Bengio's rule has them for fan-in and fan-out in sum."""
    weight.normal_(0, math.sqrt(2 / fans))


#: name → what it does to a mixer that has just been made.
INITIALISATIONS: dict[str, Callable[[Mixer], None]] = {
    "paper": _as_published,
    "mixer": _as_made,
    "blocks": _block_by_block,
}
