"""Names and shapes of tensors: SpeechBrain's, or those of the SummaryMixing authors' format → ours.

Every function takes what it translates out of the tensors that it is given: what is left has no
place in our models, and is refused by its name.

Shape suffixes: N heads, I inputs of a head, O outputs of a head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.summary_options import EXPDECAY, FAST, LITE

Tensors = dict[str, Tensor]
#: A pattern of their names, ours, and what is done with the tensor.
Rule = tuple[str, str, Callable[[Tensor], Tensor]]

#: Buffers that are made from sizes alone: positions and rotations.
FROM_SIZES = re.compile(r"(.+\.)?(pe|inv_freq|cosines|sines|index_swap)")
_IN_LAYER = re.compile(r"(encoder\.layers\.\d+\.(?:mha_layer|self_att)\.)(.+)")


@dataclass
class Translation:
    """Tensors under our names.

    Attributes:
        tensors: of our model.
        options: of its mixer, as the shapes say.
        nhead: heads of its mixer, where the shapes say so.
        dropped: their names of what our model does without.
    """

    tensors: Tensors = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    nhead: int | None = None
    dropped: list[str] = field(default_factory=list)


def same(tensor: Tensor) -> Tensor:
    """The tensor."""
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT


def _row(bias_NO: Tensor) -> Tensor:
    return bias_NO[:, None]


def moved(pattern: str, name: str) -> list[Rule]:
    """A rule for tensors that only get another name."""
    return [(pattern, name, same)]


def renamed(*names: str, to: str = "") -> list[Rule]:
    """Rules for names that only get something in front."""
    return [(f"({name})", rf"{to}\1", same) for name in names]


FRONT_END: list[Rule] = [
    # SpeechBrain's convolutions run over (frequency, time), ours over (time, frequency).
    (r"convblock_(\d+)\.convs\.conv_0\.conv\.weight", r"convs.\1.weight", _transposed),
    (r"convblock_(\d+)\.convs\.conv_0\.conv\.bias", r"convs.\1.bias", same),
    (r"convblock_(\d+)\.convs\.norm_0\.norm\.(weight|bias)", r"norms.\1.\2", same),
]
#: nn.Linear instead of SpeechBrain's Linear.
PLAIN_LINEAR = moved(r"w\.(weight|bias)", r"\1")
_DECODER = r"(decoder\.layers\.\d+\.self_attn\.)"
TRANSFORMER: list[Rule] = [
    (rf"{_DECODER}(att\..+)", r"\1mixer.attention.\2", same),
    (r"(.+\.merge_proj\.)linear\.w\.(weight|bias)", r"\g<1>0.\2", same),
    (r"(.+\.merge_proj\.)linear_0\.w\.(weight|bias)", r"\g<1>2.\2", same),
    *renamed(".+"),
]
_NETWORKS = {"w1_gen": "first", "w2_gen": "second"}
_HYPER_LAYERS = {"fc1": "hidden", "fc2": "output"}
#: attention_type → rules for the names in a layer's mixer
MIXERS: dict[str, list[Rule]] = {
    "RelPosMHAXL": renamed(
        *("in_proj_weight", r"out_proj\..+", r"linear_pos\..+", "pos_bias_[uv]"), to="attention."
    ),
    "regularMHA": renamed(r"att\..+", to="attention."),
    "RoPEMHA": renamed("in_proj_weight", r"out_proj\..+"),
    "hypermixing": [
        (r"layer_norm\.(weight|bias)", r"norm.\1", same),
        *(
            (rf"hyper\.{network}\.{layer}_{kind}", f"{ours}.{part}.{name}", change)
            for network, ours in _NETWORKS.items()
            for layer, part in _HYPER_LAYERS.items()
            for kind, name, change in (
                ("weights", "weight", _transposed),
                ("biases", "bias", _row),
            )
        ),
    ],
    "fastformer": [
        (r"(query|key)_proj\.(?:w\.)?(weight|bias)", r"\1.\2", same),
        (r"out_proj\.(?:w\.)?(weight|bias)", r"output.\1", same),
        (r"(query|key)_attn\.(?:w\.)?weight", r"\1_score.weight", same),
    ],
}
#: attention_type → names that our mixer does without: a softmax does not see a bias.
_NEEDLESS = {"fastformer": re.compile(r"(query|key)_attn\.(w\.)?bias")}


def translate(tensors: Tensors, rules: list[Rule], to: str = "") -> Tensors:
    """Takes out what the rules are for; of several that fit a name, the first counts.

    Args:
        tensors: by their names; what is translated is taken out.
        rules: for whole names.
        to: what our names begin with.
    """
    ours: Tensors = {}
    for pattern, name, change in rules:
        for theirs in [key for key in tensors if re.fullmatch(pattern, key)]:
            ours[to + re.sub(pattern, name, theirs)] = change(tensors.pop(theirs))
    return ours


def drop_from_sizes(tensors: Tensors) -> list[str]:
    """Takes out the buffers that our models make themselves; returns their names."""
    dropped = [name for name in tensors if FROM_SIZES.fullmatch(name)]
    for name in dropped:
        del tensors[name]
    return dropped


def transformer(tensors: Tensors, attention_type: str, summary: Mapping[str, Any]) -> Translation:
    """Encoder, and decoder if there is one, of a ``TransformerASR``.

    Args:
        tensors: all are taken out, but those of mixers that have no place in ours.
        attention_type: name of the encoder's mixer.
        summary: of SummaryMixing, its ``mode``, and ``use_layernorm`` where the file says it.
    """
    found = Translation(dropped=drop_from_sizes(tensors))
    layers: dict[str, Tensors] = {}
    for name in list(tensors):
        if match := _IN_LAYER.fullmatch(name):
            layers.setdefault(match[1], {})[match[2]] = tensors.pop(name)
    left: Tensors = {}
    for prefix, mixer in layers.items():
        if attention_type == "SummaryMixing":
            _summary_mixing(mixer, prefix, summary, found)
        else:
            _other_mixer(mixer, prefix, attention_type, found)
        left |= {prefix + name: tensor for name, tensor in mixer.items()}
    found.tensors |= translate(tensors, TRANSFORMER)
    tensors |= left
    return found


def _other_mixer(mixer: Tensors, prefix: str, attention_type: str, found: Translation) -> None:
    found.tensors |= translate(mixer, MIXERS[attention_type], prefix)
    if needless := _NEEDLESS.get(attention_type):
        for name in [name for name in mixer if needless.fullmatch(name)]:
            del mixer[name]
            found.dropped.append(prefix + name)
    if attention_type == "hypermixing":
        heads, units, _ = found.tensors[f"{prefix}first.output.weight"].mT.shape
        found.options = {"hypernet_size": heads * units}


def _summary_mixing(
    mixer: Tensors, prefix: str, summary: Mapping[str, Any], found: Translation
) -> None:
    """One cell; the first layers of f and s become one product, the combiner's becomes two."""
    mode, options = summary["mode"], found.options
    local: list[tuple[Tensor, Tensor]] = []
    if mode == FAST:
        weight_NIO, bias_N1O = _layers(mixer, prefix, "global_proj")[0]
        half = weight_NIO.shape[2] // 2
        local = [(weight_NIO[..., :half], bias_N1O[..., :half])]
        pooled = [(weight_NIO[..., half:], bias_N1O[..., half:])]
    else:
        pooled = _layers(mixer, prefix, "summary_proj")
        local = [] if mode == LITE else _layers(mixer, prefix, "local_proj")
        found.nhead = pooled[0][0].shape[0]
    ours: Tensors = {}
    first = [layers[0] for layers in (local, pooled) if layers]
    for index, kind in enumerate(("weight", "bias")):
        ours[f"input_proj.{kind}"] = torch.cat([layer[index] for layer in first], dim=-1)
        for part, layers in (("local", local), ("summary", pooled)):
            for k, layer in enumerate(layers[1:]):
                ours[f"{part}_layers.{k}.{kind}"] = layer[index]
    for flag, layers in (("local_proj", local), ("summary", pooled)):
        sizes = [bias_N1O.numel() for _, bias_N1O in layers]
        if sizes:
            options[f"{flag}_out_dim"] = sizes[-1]
        if sizes and mode != FAST:
            options[f"{flag}_hid_dim"] = sizes[:-1]
    if local:
        weight_1XD, bias_11D = _layers(mixer, prefix, "summary_local_merging")[0]
        width = options["local_proj_out_dim"]
        ours["combine_local.weight"] = weight_1XD[0, :width].mT
        ours["combine_summary.weight"] = weight_1XD[0, width:].mT
        ours["combine_local.bias"] = bias_11D.flatten()
    norms = translate(mixer, [(r"(.+_norm)\.(?:norm\.)?(weight|bias)", r"\1.\2", same)])
    if mode == EXPDECAY and "decay_constant" in mixer:
        options["decay"] = float(mixer.pop("decay_constant"))
    normalise = summary.get("use_layernorm", bool(norms)) and mode not in (LITE, FAST)
    if normalise:
        ours |= norms
    else:
        found.dropped += [prefix + name for name in norms]
    options |= {"mode": mode, "use_layernorm": normalise}
    found.tensors |= {prefix + name: tensor for name, tensor in ours.items()}


def _layers(mixer: Tensors, prefix: str, network: str) -> list[tuple[Tensor, Tensor]]:
    """Weights (N, I, O) and biases (N, 1, O) of the layers of a network, first to last.

    Raises:
        InputError: there are none.
    """
    found = []
    for name in ("linear", *(f"linear_{k}" for k in range(len(mixer)))):
        layer = f"{network}.{name}"
        if {f"{layer}.weights", f"{layer}.biases"} <= set(mixer):
            bias_NO = mixer.pop(f"{layer}.biases")
            found.append((mixer.pop(f"{layer}.weights"), bias_NO[:, None]))
        elif {f"{layer}.w.weight", f"{layer}.w.bias"} <= set(mixer):
            bias_O = mixer.pop(f"{layer}.w.bias")
            found.append((mixer.pop(f"{layer}.w.weight").mT[None], bias_O[None, None]))
    if not found:
        raise InputError(f"the checkpoint has no {prefix}{network}.linear.")
    return found
