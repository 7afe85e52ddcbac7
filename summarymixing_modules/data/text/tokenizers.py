"""Tokenizers for speech recognition: their interface, and characters as tokens.

Index 0 is never the index of a token: it is the blank of CTC and of transducers (in SentencePiece
models it is the piece ``<unk>``, which encoding refuses to produce). With ``bos_eos`` the indices 1
and 2 are the begin and end marks of attention decoders, as in SpeechBrain's recipes.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.errors import InputError

BLANK_INDEX = 0
#: The characters of LibriSpeech's transcripts.
LIBRISPEECH_CHARACTERS = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"

#: Begin and end marks of attention decoders, where a tokenizer has them.
BOS_INDEX, EOS_INDEX = 1, 2


class TextError(InputError):
    """Text that a tokenizer cannot express, or a tokenizer that cannot be made from the text."""


class Tokenizer(ABC):
    """Maps transcripts to token indices and back.

    Attributes:
        vocab_size: number of indices, blank and marks included: the size of the output layer.
        bos_index: begin mark for attention decoders, or ``None``.
        eos_index: end mark for attention decoders, or ``None``.
    """

    vocab_size: int
    bos_index: int | None
    eos_index: int | None
    blank_index: int = BLANK_INDEX

    def encode(self, text: str, utterance: str = "") -> list[int]:
        """Token indices of a transcript.

        Args:
            text: the transcript.
            utterance: its ID, for the error message.

        Raises:
            TextError: a character is not in the table of this tokenizer.
        """
        unknown = self.unknown_characters(text)
        if unknown:
            where = f"utterance {utterance}: " if utterance else ""
            listed = ", ".join(repr(character) for character in unknown)
            raise TextError(
                f"{where}this tokenizer has no token for {listed} in {text!r}, only for "
                f"{self.characters()!r}: correct the transcript, or train the tokenizer on text "
                "with such characters"
            )
        return self._encode(text)

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """`encode` for text without unknown characters."""

    @abstractmethod
    def decode(self, indices: Sequence[int]) -> str:
        """Text of token indices; blanks and begin and end marks are skipped.

        Raises:
            IndexError: an index is outside the vocabulary.
        """

    def texts(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Transcripts of several lists of indices."""
        return [self.decode(row).strip() for row in rows]

    @abstractmethod
    def characters(self) -> str:
        """The characters that can be encoded, sorted."""

    @abstractmethod
    def unknown_characters(self, text: str) -> list[str]:
        """Characters of ``text`` that cannot be encoded, sorted."""

    @abstractmethod
    def pieces(self) -> list[str]:
        """The text of every index, for beam searches; the blank's is empty."""

    def _tokens_only(self, indices: Sequence[int]) -> list[int]:
        for index in indices:
            if not 0 <= index < self.vocab_size:
                raise IndexError(f"token {index} is outside the vocabulary of {self.vocab_size}")
        marks = (BLANK_INDEX, self.bos_index, self.eos_index)
        return [index for index in indices if index not in marks]


class CharTokenizer(Tokenizer):
    """One token for each character.

    Args:
        characters: those that can occur; their order does not matter.
        bos_eos: reserve indices 1 and 2 for begin and end marks.
    """

    def __init__(self, characters: Iterable[str] = LIBRISPEECH_CHARACTERS, bos_eos: bool = False):
        table = sorted(set(characters))
        if not table:
            raise TextError("a character tokenizer needs at least one character")
        self.bos_index = BOS_INDEX if bos_eos else None
        self.eos_index = EOS_INDEX if bos_eos else None
        first = EOS_INDEX + 1 if bos_eos else BLANK_INDEX + 1
        self._index_of = {character: first + rank for rank, character in enumerate(table)}
        self._character_at = {index: character for character, index in self._index_of.items()}
        self.vocab_size = first + len(table)

    @classmethod
    def from_manifest(
        cls, csv_path: str | os.PathLike[str], bos_eos: bool = False
    ) -> CharTokenizer:
        """Take the characters of the transcripts of a training manifest."""
        return cls({c for row in read_manifest(csv_path) for c in row.wrd}, bos_eos)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CharTokenizer:
        """Read what `save` wrote.

        Raises:
            TextError: the file is missing or holds something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(content["characters"], content["bos_eos"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise TextError(
                f"{path}: is not a character tokenizer saved as JSON ({err}): train it again"
            ) from err

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON."""
        content = {"characters": self.characters(), "bos_eos": self.bos_index is not None}
        write_atomically(Path(path), json.dumps(content) + "\n")

    def _encode(self, text: str) -> list[int]:
        return [self._index_of[character] for character in text]

    def decode(self, indices: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return "".join(self._character_at[index] for index in self._tokens_only(indices))

    def characters(self) -> str:
        """See `Tokenizer.characters`."""
        return "".join(self._index_of)

    def pieces(self) -> list[str]:
        """See `Tokenizer.pieces`."""
        return [self._character_at.get(index, "") for index in range(self.vocab_size)]

    def unknown_characters(self, text: str) -> list[str]:
        """See `Tokenizer.unknown_characters`."""
        return sorted(set(text) - self._index_of.keys())
