"""Sentences of Common Voice as transcripts: letters of the language, apostrophes and spaces.

Sentences are prompts in ordinary spelling. What is not spoken (punctuation) goes; what is spoken
but not spelt out (digits, "%") makes a sentence unusable, because nobody knows the words.
"""

from __future__ import annotations

import unicodedata

_LATIN = "abcdefghijklmnopqrstuvwxyz"
#: Letters of the languages that can be prepared; those of names and loan words are among them.
ALPHABETS = {
    "cy": _LATIN + "âêîôûŵŷ" + "áéíóúẃý" + "àèìòùẁỳ" + "äëïöüẅÿ",
    "en": _LATIN,
    "eu": _LATIN + "ñçü",
}
_APOSTROPHES = "'’‘ʼ`´′"
_SPOKEN_SYMBOLS = "%&+=@#€£$°"


def normalise_sentence(sentence: str, language: str) -> str:
    """A sentence as upper-case words.

    Letters with accents that the language does not have lose them ("é" in Basque); hyphens and
    punctuation become spaces; apostrophes stay, except around a single quoted word.

    Args:
        sentence: as in a ``.tsv`` file of Common Voice.
        language: one of `ALPHABETS`.

    Raises:
        ValueError: a digit, a spoken symbol, a letter of another script, or no word. Says which.
    """
    alphabet = ALPHABETS[language]
    text = unicodedata.normalize("NFC", sentence).lower()
    kept = "".join(_letter(character, alphabet) for character in text)
    words = [_unquoted(word) for word in kept.split()]
    words = [word for word in words if word.strip("'")]
    if not words:
        raise ValueError(f"no word in the sentence {sentence!r}")
    return " ".join(words).upper()


def _letter(character: str, alphabet: str) -> str:
    """What stands for a character: itself, its base letter, or a space."""
    if character in alphabet:
        return character
    if character in _APOSTROPHES:
        return "'"
    base = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isalpha())
    if base and all(letter in alphabet for letter in base):
        return base
    kind = unicodedata.category(character)
    if kind.startswith("M"):  # an accent that did not combine with the letter before it
        return ""
    if kind[0] in "LN" or character in _SPOKEN_SYMBOLS:
        raise ValueError(f"the sentence has {character!r}, which is not spelt out in this language")
    return " "


def _unquoted(word: str) -> str:
    """A word without the quotes around it; Welsh words may begin with an apostrophe ('r, 'n)."""
    quoted = len(word) > 2 and word.startswith("'") and word.endswith("'")
    return word.strip("'") if quoted else word
