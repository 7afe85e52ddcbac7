"""Blocks of SpeechBrain's YAML files → our models of the same function, with their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer import TransformerASR as stock
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from torch import Tensor, nn

from summarymixing_modules.bundles.assemble import check_tensors
from summarymixing_modules.conversion import names
from summarymixing_modules.conversion.yaml_file import Block
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import (
    AttentionCTCModel,
    ConvFrontEnd2d,
    CTCModel,
    TransformerASR,
)
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.asr.language_model import LanguageModel

#: Arguments of blocks → the value that can be converted.
_FRONT_END_FIXED = {
    "num_layers_per_block": 1,
    "residuals": False,
    "dilations": 1,
    "conv_module": "Conv2d",
    "activation": "LeakyReLU",
    "norm": "LayerNorm",
    "conv_bias": True,
    "padding": "same",
}
_TRANSFORMER_FIXED = {"normalize_before": True}
_LM_FIXED = {
    "num_decoder_layers": 0,
    "positional_encoding": "fixed_abs_sine",
    "causal": True,
    "attention_type": "regularMHA",
}
_TRANSFORMER_SAME = (
    *("tgt_vocab", "input_size", "d_model", "nhead", "num_encoder_layers", "num_decoder_layers"),
    *("d_ffn", "dropout", "activation", "kernel_size", "bias", "encoder_module"),
    *("conformer_activation", "branchformer_activation", "attention_type", "causal"),
    *("csgu_linear_units", "gate_activation", "use_linear_after_conv", "layerdrop_prob"),
)
#: Arguments of ``TransformerASR`` in the SummaryMixing authors' format; sizes are the tensors'.
_SUMMARY = ("mode", "use_layernorm")
_SUMMARY_SIZES = (
    *("local_proj_hid_dim", "local_proj_out_dim", "summary_hid_dim", "summary_out_dim"),
    "global_dropout",
)
#: Mixers that have an order of their own, so that SpeechBrain adds no positions to their input.
_ORDERED = ("RelPosMHAXL", "RoPEMHA", "hypermixing")
#: Mixers whose causal form is the same in SpeechBrain.
_CAUSAL = ("regularMHA", "RelPosMHAXL", "RoPEMHA")
#: Parts of pre-training and of transducers, which a bundle of an encoder leaves out, on purpose.
_LEFT_OUT = {
    "RandomProjectionQuantizer": "BEST-RQ",
    "LSTM": "a transducer",
    "Embedding": "a transducer",
    "Transducer_joint": "a transducer",
    "Linear": "",
}
LANGUAGE_MODEL = "TransformerLM"
#: Classes whose weights are read; what else a checkpoint keeps is the state of a training.
MODELS = (
    *("ModuleList", "Sequential", "EncoderWrapper", "TransformerASR", "ConvolutionFrontEnd"),
    LANGUAGE_MODEL,
    *_LEFT_OUT,
)


@dataclass(frozen=True)
class Part:
    """A block whose weights a checkpoint holds.

    Attributes:
        block: of the YAML file.
        tensors: by their names in the block.
    """

    block: Block
    tensors: names.Tensors


@dataclass(frozen=True)
class Converted:
    """A model with its weights.

    Attributes:
        model: in eval mode.
        trained_as: what was trained, where only the encoder is kept.
        dropped: names of what is left out on purpose.
    """

    model: nn.Module
    trained_as: str
    dropped: list[str]


def parts_of(block: Block, tensors: Mapping[str, Tensor], prefix: str = "") -> list[Part]:
    """The blocks of a ``ModuleList`` with their tensors, or the block itself.

    Args:
        block: what the tensors belong to.
        tensors: of the block.
        prefix: of their names in the checkpoint's file.

    Raises:
        InputError: tensors of no block.
    """
    if block.name == "EncoderWrapper":
        inside = block.arguments.get("transformer", *block.items[:1])
        return _inside([("transformer", inside)], block, tensors, prefix)
    if block.name in ("ModuleList", "Sequential") and not block.arguments:
        items = block.items[0] if block.name == "ModuleList" else block.items
        return _inside([(str(k), item) for k, item in enumerate(items)], block, tensors, prefix)
    return [Part(block, dict(tensors))]


def _inside(
    blocks: Sequence[tuple[str, Any]], of: Block, tensors: Mapping[str, Tensor], prefix: str
) -> list[Part]:
    left, found = dict(tensors), []
    for name, block in blocks:
        own = {key: left.pop(key) for key in list(left) if key.startswith(f"{name}.")}
        bare = {key.removeprefix(f"{name}."): tensor for key, tensor in own.items()}
        if isinstance(block, Block):
            found += parts_of(block, bare, f"{prefix}{name}.")
        else:
            left |= own
    refuse([prefix + name for name in left], of.key)
    return found


def refuse(left: Sequence[str], where: str) -> None:
    """Raises InputError if tensors have no place in our models; names all of them."""
    if left:
        raise InputError(
            f"{where} has tensors that our models have no place for: {', '.join(sorted(left))}. "
            "Nothing is left out in silence, so this checkpoint is not converted."
        )


def language_model(part: Part) -> Converted:
    """A ``TransformerLM``.

    Raises:
        InputError: arguments or tensors that cannot be converted.
    """
    given = part.block.bind(TransformerLM)
    _require(part.block, given, _LM_FIXED)
    kept = ("vocab", "d_model", "nhead", "d_ffn", "dropout", "d_embedding", "normalize_before")
    model = LanguageModel(
        **{name: given[name] for name in kept},
        num_layers=given["num_encoder_layers"],
        activation=_activation(part.block, given, "activation"),
    )
    tensors = dict(part.tensors)
    dropped = names.drop_from_sizes(tensors)
    _fill(model, tensors, part.block.key)
    return Converted(model.eval(), "", dropped)


def speech_model(parts: Sequence[Part]) -> Converted:
    """A recogniser with a decoder and CTC or with CTC alone, or, of other models, the encoder.

    Raises:
        InputError: a part, an argument or a tensor that cannot be converted.
    """
    by_name: dict[str, Part] = {}
    for part in parts:
        name = part.block.key if part.block.name == "Linear" else part.block.name
        if name in by_name:
            raise InputError(f"the checkpoint has two parts {name}: only one can be converted.")
        by_name[name] = part
    for name in ("ConvolutionFrontEnd", "TransformerASR"):
        if name not in by_name:
            raise InputError(f"the checkpoint has no {name}: its model cannot be converted.")
    front_end, front_tensors = _front_end(by_name.pop("ConvolutionFrontEnd"))
    transformer, found = _transformer(by_name.pop("TransformerASR"))
    tensors = {f"frontend.{name}": tensor for name, tensor in front_tensors.items()}
    tensors |= {f"transformer.{name}": tensor for name, tensor in found.tensors.items()}
    model: nn.Module = AcousticEncoder(front_end, transformer)
    heads = [by_name.pop(name) for name in ("ctc_lin", "seq_lin") if name in by_name]
    trained_as = ""
    if by_name or not heads:
        trained_as, dropped = _left_out([*heads, *by_name.values()])
        found.dropped += dropped
    elif len(heads) == 2:
        model = AttentionCTCModel(front_end, transformer, _outputs(heads[0]))
        for name, head in zip(("ctc_output", "seq_output"), heads, strict=True):
            tensors |= {f"{name}.{key}": tensor for key, tensor in head.tensors.items()}
    elif heads[0].block.key == "ctc_lin":
        model = CTCModel(front_end, transformer, _outputs(heads[0]))
        tensors |= names.translate(dict(heads[0].tensors), names.PLAIN_LINEAR, "output.")
    else:
        raise InputError("a model with a decoder and without ctc_lin cannot be converted.")
    _fill(model, tensors, "the checkpoint")
    return Converted(model.eval(), trained_as, found.dropped)


def _left_out(parts: Sequence[Part]) -> tuple[str, list[str]]:
    """What was trained, and the names of its parts beside the encoder."""
    for part in parts:
        if part.block.name not in _LEFT_OUT:
            raise InputError(
                f"{part.block.key} is a {part.block.name}, which cannot be converted: only models "
                "of a ConvolutionFrontEnd, a TransformerASR, ctc_lin and seq_lin can, and the "
                "encoders of BEST-RQ and of transducers."
            )
    trained = {_LEFT_OUT[part.block.name] for part in parts} - {""}
    dropped = [f"{part.block.key}.{name}" for part in parts for name in part.tensors]
    return " and ".join(sorted(trained)) or "an encoder", dropped


def _front_end(part: Part) -> tuple[ConvFrontEnd2d, names.Tensors]:
    given = part.block.bind(ConvolutionFrontEnd)
    blocks = given["num_blocks"]
    channels, kernels, strides = (
        given[name][:blocks] for name in ("out_channels", "kernel_sizes", "strides")
    )
    for name in ("residuals", "dilations"):
        given[name] = _single(part.block, name, given[name][:blocks])
    _require(part.block, given, _FRONT_END_FIXED)
    model = ConvFrontEnd2d(
        input_size=given["input_shape"][-1],
        channels=channels,
        kernel_size=_single(part.block, "kernel_sizes", kernels),
        stride=_single(part.block, "strides", strides),
        dropout=given["dropout"],
        padding_mode="reflect",
    )
    tensors = dict(part.tensors)
    ours = names.translate(tensors, names.FRONT_END)
    refuse(list(tensors), part.block.key)
    return model, ours


def _transformer(part: Part) -> tuple[TransformerASR, names.Translation]:
    block = part.block
    more = (*_SUMMARY, *_SUMMARY_SIZES)
    given = block.bind(stock.TransformerASR, more)
    _require(block, given, _TRANSFORMER_FIXED)
    mixer, causal = given["attention_type"], given["causal"]
    if mixer not in (*names.MIXERS, "SummaryMixing"):
        _refuse_value(block, "attention_type", mixer, " or ".join([*names.MIXERS, "SummaryMixing"]))
    if causal is None or (causal and mixer not in _CAUSAL):
        _refuse_value(block, "causal", causal, "False")
    summary = {name: given[name] for name in _SUMMARY if name in given}
    if mixer == "SummaryMixing":
        summary.setdefault("mode", "SummaryMixing")
    tensors = dict(part.tensors)
    found = names.transformer(tensors, mixer, summary)
    refuse(list(tensors), block.key)
    arguments = {name: given[name] for name in _TRANSFORMER_SAME}
    for name in arguments:
        if name.endswith("activation"):
            arguments[name] = _activation(block, given, name)
    model = TransformerASR(
        **{**arguments, "nhead": found.nhead or given["nhead"]},
        decoder_nhead=given["nhead"],
        mixer_options=found.options or None,
        csgu_padding_mode="reflect",
        absolute_positions=mixer not in _ORDERED and given["positional_encoding"] is not None,
    )
    return model, found


def _fill(model: nn.Module, tensors: names.Tensors, where: str) -> None:
    """Loads the weights; buffers that are made from sizes stay as the model has made them."""
    wanted = model.state_dict()
    tensors |= {n: tensor for n, tensor in wanted.items() if names.FROM_SIZES.fullmatch(n)}
    refuse([name for name in tensors if name not in wanted], where)
    check_tensors(wanted, tensors)
    model.load_state_dict(tensors)


def _outputs(head: Part) -> int:
    return int(head.tensors["w.weight"].shape[0])


def _single(block: Block, name: str, values: Sequence[Any]) -> Any:
    if len(set(values)) != 1:
        _refuse_value(block, name, values, "one value for all")
    return values[0]


def _activation(block: Block, given: Mapping[str, Any], name: str) -> type[nn.Module]:
    value = given[name]
    if not isinstance(value, type):
        _refuse_value(block, name, getattr(value, "name", value), "`!name:` of an activation")
    return value


def _require(block: Block, given: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, wanted in fixed.items():
        value = given[name]
        value = getattr(value, "name", getattr(value, "__name__", value))
        if value != wanted:
            _refuse_value(block, name, value, wanted)


def _refuse_value(block: Block, name: str, value: Any, wanted: Any) -> None:
    raise InputError(
        f"{block.key}: a {block.name} with {name}={value} cannot be converted, only with {wanted}."
    )
