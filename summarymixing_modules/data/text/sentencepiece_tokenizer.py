"""SentencePiece units as tokens, and the choice of a tokenizer by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import sentencepiece
from filelock import FileLock

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.data.text.tokenizers import (
    BLANK_INDEX,
    BOS_INDEX,
    EOS_INDEX,
    CharTokenizer,
    TextError,
    Tokenizer,
)

ModelType = Literal["unigram", "bpe", "char"]
TokenType = Literal["librispeech_char", "char", "unigram", "bpe"]

#: Far more characters than any alphabet: "all of them" for the model type "char".
_ALL_CHARACTERS = 1 << 16
_LARGEST_SIZE = re.compile(r"set it to a value <= (\d+)")
_SMALLEST_SIZE = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


class SentencePieceTokenizer(Tokenizer):
    """Units of a SentencePiece model (Kudo and Richardson, EMNLP 2018).

    Args:
        model_path: a ``.model`` file whose ``<unk>`` has index 0, as `train` writes it.

    Attributes:
        processor: the `sentencepiece.SentencePieceProcessor`, for SpeechBrain's scorers.

    Raises:
        TextError: the file is missing, not a SentencePiece model, or has other special indices.
    """

    def __init__(self, model_path: str | os.PathLike[str]):
        self.model_path = Path(model_path)
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(self.model_path.read_bytes())
        except (OSError, RuntimeError) as err:
            raise TextError(
                f"{model_path}: is not a SentencePiece model ({err}): train the tokenizer again"
            ) from err
        if self.processor.unk_id() != BLANK_INDEX:
            raise TextError(
                f"{model_path}: its <unk> has index {self.processor.unk_id()}, but index 0 has to "
                "be free for the blank: train it with --unk_id=0"
            )
        self.vocab_size = self.processor.get_piece_size()
        # sentencepiece answers -1 for a mark that the model does not have.
        self.bos_index = _index_or_none(self.processor.bos_id())
        self.eos_index = _index_or_none(self.processor.eos_id())

    @classmethod
    def train(
        cls,
        csv_path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        num_tokens: int | None,
        model_type: ModelType = "unigram",
        bos_eos: bool = False,
    ) -> SentencePieceTokenizer:
        """Train on the transcripts of a manifest, or load the result of an earlier training.

        The model's file name holds a hash of transcripts and settings, so a change of either trains
        anew. Processes may call this at the same time: one trains, the others wait for it.

        Args:
            csv_path: training manifest.
            folder: where models are kept.
            num_tokens: size of the vocabulary, blank and marks included; ``None`` is all characters
                (``model_type="char"`` only).
            model_type: ``"unigram"``, ``"bpe"`` or ``"char"``.
            bos_eos: reserve indices 1 and 2 for begin and end marks.

        Raises:
            TextError: the text does not allow a vocabulary of this size.
        """
        if model_type not in get_args(ModelType):
            raise TextError(f"--model_type {model_type!r}: use {', '.join(get_args(ModelType))}")
        if model_type != "char" and (num_tokens is None or num_tokens < 1):
            raise TextError(
                f"--output_neurons (--num_tokens) is {num_tokens}: give the vocabulary size that "
                f"{model_type} shall have"
            )
        manifest = read_manifest(csv_path)
        if not manifest:
            raise TextError(f"{csv_path}: has no transcripts to train a tokenizer on")
        digest = _digest([num_tokens, model_type, bos_eos], (row.wrd for row in manifest))
        model_path = Path(folder) / f"{model_type}_{num_tokens or 'all'}_{digest}.model"
        model_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(model_path.with_name(".tokenizer.lock")):
            if not model_path.is_file():
                texts = [row.wrd for row in manifest]
                write_atomically(model_path, _train(texts, num_tokens, model_type, bos_eos))
        return cls(model_path)

    def _encode(self, text: str) -> list[int]:
        return list(self.processor.encode(text))

    def characters(self) -> str:
        """See `Tokenizer.characters`."""
        pieces = map(self.processor.id_to_piece, range(self.vocab_size))
        return "".join(
            sorted({" ", *(c for piece in pieces for c in piece if len(piece) == 1)} - {"\u2581"})
        )

    def pieces(self) -> list[str]:
        """See `Tokenizer.pieces`; "\u2581" marks the start of a word."""
        pieces = map(self.processor.id_to_piece, range(self.vocab_size))
        return ["" if index == BLANK_INDEX else piece for index, piece in enumerate(pieces)]

    def unknown_characters(self, text: str) -> list[str]:
        """See `Tokenizer.unknown_characters`."""
        return sorted(c for c in set(text) if BLANK_INDEX in self.processor.encode(c))

    def decode(self, indices: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self.processor.decode(self._tokens_only(indices)))


def _digest(settings: Sequence[Any], texts: Iterable[str]) -> str:
    """That of the JSON of both, without holding all texts in memory."""
    digest = hashlib.sha256(json.dumps(settings)[:-1].encode())
    for number, text in enumerate(texts):
        digest.update(f"{', ' if number else ', ['}{json.dumps(text)}".encode())
    digest.update(b"]]")
    return digest.hexdigest()[:12]


def _index_or_none(index: int) -> int | None:
    return index if index >= 0 else None


def _train(texts: Sequence[str], num_tokens: int | None, model_type: str, bos_eos: bool) -> bytes:
    """A serialised model with exactly ``num_tokens`` pieces."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=model_type,
            # Given fewer than there are, "char" would drop rare characters without a word.
            vocab_size=_ALL_CHARACTERS if model_type == "char" else num_tokens,
            unk_id=BLANK_INDEX,
            bos_id=BOS_INDEX if bos_eos else -1,
            eos_id=EOS_INDEX if bos_eos else -1,
            pad_id=-1,
            character_coverage=1.0,
            # Longer sentences would be left out without a word.
            max_sentence_length=max(4192, *(len(text.encode()) for text in texts)),
            max_sentencepiece_length=10,
            minloglevel=2,
        )
    except RuntimeError as err:
        raise _explain(str(err), num_tokens, model_type) from err
    made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    if num_tokens not in (None, made):
        raise TextError(
            f"--output_neurons (--num_tokens) is {num_tokens}, but the training text makes "
            f"{made} {model_type} tokens, blank included: set it to {made}"
        )
    return model.getvalue()


def _explain(reason: str, num_tokens: int | None, model_type: str) -> TextError:
    flag = f"--output_neurons (--num_tokens) is {num_tokens}"
    if match := _LARGEST_SIZE.search(reason):
        return TextError(
            f"{flag}, more than the training text allows for {model_type}: "
            f"the largest possible size is {match[1]}"
        )
    if match := _SMALLEST_SIZE.search(reason):
        return TextError(
            f"{flag}, fewer than the characters of the training text: "
            f"the smallest possible size is {match[1]}"
        )
    return TextError(f"{flag}: sentencepiece cannot train on this text ({reason})")


def build_tokenizer(
    token_type: TokenType,
    train_csv: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    num_tokens: int | None = None,
    bos_eos: bool = False,
) -> Tokenizer:
    """Make, or load, the tokenizer that a recipe's flags describe.

    Args:
        token_type: ``"librispeech_char"`` (A to Z, apostrophe, space), ``"char"`` (the characters
            of the training transcripts, kept as ``char.json``), ``"unigram"`` or ``"bpe"``
            (SentencePiece).
        train_csv: training manifest.
        folder: where tokenizers are kept.
        num_tokens: size of the output layer, blank and marks included. Characters decide it
            themselves: give ``None``, or the right number.
        bos_eos: reserve indices 1 and 2 for begin and end marks.

    Raises:
        TextError: unknown type, or a size that the type or the text does not allow.
    """
    if token_type not in get_args(TokenType):
        raise TextError(f"--token_type {token_type!r}: use {', '.join(get_args(TokenType))}")
    if token_type == "unigram" or token_type == "bpe":
        return SentencePieceTokenizer.train(train_csv, folder, num_tokens, token_type, bos_eos)
    if token_type == "char":
        tokenizer = CharTokenizer.from_manifest(train_csv, bos_eos)
        tokenizer.save(Path(folder) / "char.json")
    else:
        tokenizer = CharTokenizer(bos_eos=bos_eos)
    if num_tokens not in (None, tokenizer.vocab_size):
        raise TextError(
            f"--output_neurons (--num_tokens) is {num_tokens}, but --token_type {token_type} has "
            f"{tokenizer.vocab_size} tokens, blank included: set it to {tokenizer.vocab_size}"
        )
    return tokenizer
