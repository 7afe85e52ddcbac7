"""Language models of SpeechBrain's recipes → ours, with their weights."""

from __future__ import annotations

from speechbrain.lobes.models.RNNLM import RNNLM
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

from summarymixing_modules.conversion import names
from summarymixing_modules.conversion.parts import Converted, Part, activation, fill, require
from summarymixing_modules.models.asr.language_model import LanguageModel
from summarymixing_modules.models.asr.recurrent_language_model import RecurrentLanguageModel

LANGUAGE_MODELS = ("TransformerLM", "RNNLM")
#: Arguments → the value that can be converted.
_LM_FIXED = {
    "num_decoder_layers": 0,
    "positional_encoding": "fixed_abs_sine",
    "causal": True,
    "attention_type": "regularMHA",
}
_RNN_FIXED = {"activation": "LeakyReLU", "rnn_class": "LSTM", "dnn_blocks": 1}


def language_model(part: Part) -> Converted:
    """A ``TransformerLM``, or an ``RNNLM``.

    Raises:
        InputError: arguments or tensors that cannot be converted.
    """
    if part.block.name == "RNNLM":
        return _recurrent_language_model(part)
    given = part.block.bind(TransformerLM)
    require(part.block, given, _LM_FIXED)
    kept = ("vocab", "d_model", "nhead", "d_ffn", "dropout", "d_embedding", "normalize_before")
    model = LanguageModel(
        **{name: given[name] for name in kept},
        num_layers=given["num_encoder_layers"],
        activation=activation(part.block, given, "activation"),
    )
    tensors = dict(part.tensors)
    dropped = names.drop_from_sizes(tensors)
    fill(model, tensors, part.block.key)
    return Converted(model.eval(), "", dropped)


def _recurrent_language_model(part: Part) -> Converted:
    given = part.block.bind(RNNLM)
    require(part.block, given, _RNN_FIXED)
    model = RecurrentLanguageModel(
        given["output_neurons"],
        d_embedding=given["embedding_dim"],
        num_layers=given["rnn_layers"],
        hidden_size=given["rnn_neurons"],
        d_output=given["dnn_neurons"],
        dropout=given["dropout"],
    )
    fill(model, dict(part.tensors), part.block.key)
    return Converted(model.eval(), "", [])
