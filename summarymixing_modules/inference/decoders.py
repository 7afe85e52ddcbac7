"""How each kind of model turns features into tokens.

A new kind of model needs one function and one line in `DECODERS`.

Shape suffixes: B batch, T frames, F features, D model features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, BOS_INDEX, EOS_INDEX
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference.decoding import Token, align_ctc, best_path
from summarymixing_modules.models import AttentionCTCModel, CTCModel, TransducerModel
from summarymixing_modules.models.asr.attention_search import make_searcher
from summarymixing_modules.models.features.frontend import lengths_to_padding

#: (model, normalised features (B, T, F), real frames (B,)) → tokens of each utterance
Decoder = Callable[[Any, Tensor, Tensor], list[list[Token]]]

#: Hypotheses of the beam search, and weight of CTC in it (arXiv 2307.07421, while validating).
BEAM_SIZE, CTC_WEIGHT = 10, 0.4
#: Encoder frames that a transducer decodes at once: what its tokens' times are good to.
TRANSDUCER_STEP = 2


def decode_ctc(model: CTCModel, x_BTF: Tensor, lengths_B: Tensor) -> list[list[Token]]:
    """Greedy decoding of CTC."""
    log_probs_BTV, frames_B = model(x_BTF, lengths_B)
    rows = zip(log_probs_BTV, frames_B.tolist(), strict=True)
    return [best_path(log_probs_TV[:frames]) for log_probs_TV, frames in rows]


def decode_attention(
    model: AttentionCTCModel, x_BTF: Tensor, lengths_B: Tensor
) -> list[list[Token]]:
    """Joint beam search of decoder and CTC, without a language model; the CTC head gives times."""
    encoded_BTD, frames_B = model.encode(x_BTF, lengths_B)
    log_probs_BTV = model.ctc_output(encoded_BTD).float().log_softmax(dim=-1)
    searcher = make_searcher(model, BEAM_SIZE, CTC_WEIGHT)
    found = searcher(encoded_BTD.float(), frames_B / encoded_BTD.shape[1])[0]
    marks = (BLANK_INDEX, BOS_INDEX, EOS_INDEX)
    rows = ([int(index) for index in row if index not in marks] for row in found)
    return [
        align_ctc(log_probs_TV[:frames], row)
        for log_probs_TV, frames, row in zip(log_probs_BTV, frames_B.tolist(), rows, strict=True)
    ]


def decode_transducer(
    model: TransducerModel, x_BTF: Tensor, lengths_B: Tensor
) -> list[list[Token]]:
    """Greedy decoding of a transducer."""
    encoded_BTD, frames_B = model.encode(x_BTF, lengths_B)
    padding_BT = lengths_to_padding(frames_B, encoded_BTD.shape[1])
    state = model.initial_state(len(encoded_BTD))
    tokens: list[list[Token]] = [[] for _ in encoded_BTD]
    for start in range(0, encoded_BTD.shape[1], TRANSDUCER_STEP):
        step = slice(start, start + TRANSDUCER_STEP)
        found, state = model.greedy_step(encoded_BTD[:, step], padding_BT[:, step], state)
        for row, indices in zip(tokens, found, strict=True):
            row += [Token(index, start, start + TRANSDUCER_STEP, None) for index in indices]
    return tokens


#: class of model → its decoder
DECODERS: dict[type[nn.Module], Decoder] = {
    CTCModel: decode_ctc,
    AttentionCTCModel: decode_attention,
    TransducerModel: decode_transducer,
}


def decoder_of(model: nn.Module) -> Decoder:
    """The decoder of a model.

    Raises:
        InputError: a model that nobody has written one for.
    """
    decoder = next((DECODERS[cls] for cls in type(model).__mro__ if cls in DECODERS), None)
    if decoder is None:
        known = ", ".join(cls.__name__ for cls in DECODERS)
        raise InputError(f"a {type(model).__name__} cannot be decoded. Known: {known}.")
    return decoder
