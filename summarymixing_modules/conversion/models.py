"""Blocks of SpeechBrain's YAML files → our models of the same function, with their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer import TransformerASR as stock
from speechbrain.nnet.transducer.transducer_joint import Transducer_joint
from torch import nn

from summarymixing_modules.conversion import names
from summarymixing_modules.conversion.language_models import LANGUAGE_MODELS
from summarymixing_modules.conversion.parts import (
    Converted,
    Part,
    activation,
    fill,
    refuse,
    refuse_value,
    require,
    single,
)
from summarymixing_modules.conversion.yaml_file import Block
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import (
    AttentionCTCModel,
    ConvFrontEnd2d,
    CTCModel,
    TransducerModel,
    TransformerASR,
)
from summarymixing_modules.models.acoustic import AcousticEncoder

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
_JOINT_FIXED = {"joint": "sum", "nonlinearity": "GELU"}
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
#: What a transducer has beside its encoder: class, or key of a Linear → where its tensors go.
_TRANSDUCER: dict[str, list[names.Rule]] = {
    "Embedding": names.renamed("Embedding.weight", to="predictor.embedding."),
    "LSTM": names.moved(r"rnn\.(\w+_l0)", r"predictor.lstm.\1"),
    "proj_enc": names.moved(r"w\.(weight|bias)", r"joint.encoder.\1"),
    "proj_dec": names.moved(r"w\.(weight)", r"joint.predictor.\1"),
    "transducer_lin": names.moved(r"w\.(weight|bias)", r"joint.output.\1"),
    "proj_ctc": names.moved(r"w\.(weight|bias)", r"ctc_output.\1"),
}
#: Classes whose weights are read; what else a checkpoint keeps is the state of a training.
MODELS = (
    *("ModuleList", "Sequential", "EncoderWrapper", "TransformerASR", "ConvolutionFrontEnd"),
    *LANGUAGE_MODELS,
    *_LEFT_OUT,
)


def speech_model(parts: Sequence[Part], joint: Block | None = None) -> Converted:
    """A recogniser with a decoder and CTC, with CTC alone, or a transducer; of others, the encoder.

    Args:
        parts: what the checkpoint holds.
        joint: of a transducer, which has no weights.

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
    if set(_TRANSDUCER) == set(by_name) and not heads and joint is not None:
        model, more = _transducer(front_end, transformer, by_name, joint)
        tensors |= more
    elif by_name or not heads:
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
    fill(model, tensors, "the checkpoint")
    return Converted(model.eval(), trained_as, found.dropped)


def _transducer(
    front_end: ConvFrontEnd2d, transformer: TransformerASR, parts: Mapping[str, Part], joint: Block
) -> tuple[TransducerModel, names.Tensors]:
    """A transducer, and the tensors that it has beside its encoder."""
    require(joint, joint.bind(Transducer_joint), _JOINT_FIXED)
    tensors: names.Tensors = {}
    for name, rules in _TRANSDUCER.items():
        left = dict(parts[name].tensors)
        tensors |= names.translate(left, rules)
        refuse(list(left), parts[name].block.key)
    vocabulary, one_hot_size = tensors["predictor.embedding.Embedding.weight"].shape
    if one_hot_size != vocabulary - 1:
        refuse_value(parts["Embedding"].block, "consider_as_one_hot", False, True)
    joint_size, predictor_size = tensors["joint.predictor.weight"].shape
    # Its layers into and out of the joint have no bias; ours do.
    tensors.setdefault("joint.encoder.bias", torch.zeros(joint_size))
    tensors.setdefault("joint.output.bias", torch.zeros(vocabulary))
    model = TransducerModel(
        front_end,
        transformer,
        vocabulary,
        predictor_size,
        joint_size,
        embedding_dropout=0.2,  # as in its recipe, whose keys for them have no fixed place
        dropout=0.1,
        one_hot=True,
        ctc_on_joint=True,
    )
    return model, tensors


def _left_out(parts: Sequence[Part]) -> tuple[str, list[str]]:
    """What was trained, and the names of its parts beside the encoder."""
    for part in parts:
        if part.block.name not in _LEFT_OUT:
            raise InputError(
                f"{part.block.key} is a {part.block.name}, which cannot be converted: only models "
                "of a ConvolutionFrontEnd, a TransformerASR, ctc_lin and seq_lin can, transducers, "
                "and the encoders of BEST-RQ."
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
        given[name] = single(part.block, name, given[name][:blocks])
    require(part.block, given, _FRONT_END_FIXED)
    model = ConvFrontEnd2d(
        input_size=given["input_shape"][-1],
        channels=channels,
        kernel_size=single(part.block, "kernel_sizes", kernels),
        stride=single(part.block, "strides", strides),
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
    require(block, given, _TRANSFORMER_FIXED)
    mixer, causal = given["attention_type"], given["causal"]
    if mixer not in (*names.MIXERS, "SummaryMixing"):
        refuse_value(block, "attention_type", mixer, " or ".join([*names.MIXERS, "SummaryMixing"]))
    if causal is None or (causal and mixer not in _CAUSAL):
        refuse_value(block, "causal", causal, "False")
    summary = {name: given[name] for name in _SUMMARY if name in given}
    if mixer == "SummaryMixing":
        summary.setdefault("mode", "SummaryMixing")
    tensors = dict(part.tensors)
    found = names.transformer(tensors, mixer, summary)
    refuse(list(tensors), block.key)
    arguments = {name: given[name] for name in _TRANSFORMER_SAME}
    for name in arguments:
        if name.endswith("activation"):
            arguments[name] = activation(block, given, name)
    model = TransformerASR(
        **{**arguments, "nhead": found.nhead or given["nhead"]},
        decoder_nhead=given["nhead"],
        mixer_options=found.options or None,
        csgu_padding_mode="reflect",
        absolute_positions=mixer not in _ORDERED and given["positional_encoding"] is not None,
    )
    return model, found


def _outputs(head: Part) -> int:
    return int(head.tensors["w.weight"].shape[0])
