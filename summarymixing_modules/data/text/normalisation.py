"""Sentences in ordinary spelling as transcripts: letters of the language, apostrophes and spaces.

What is not spoken (punctuation) goes; what is spoken but not spelt out (digits, "%") makes a
sentence unusable, because nobody knows the words, unless it is to be kept.
"""

from __future__ import annotations

import re
import unicodedata

_LATIN = "abcdefghijklmnopqrstuvwxyz"
#: Letters of languages; those of names and loan words are among them. Of others, any letter.
ALPHABETS = {
    "ca": _LATIN + "àçèéíïòóúüŀ·",
    "cy": _LATIN + "âêîôûŵŷ" + "áéíóúẃý" + "àèìòùẁỳ" + "äëïöüẅÿ",
    "de": _LATIN + "äöüß",
    "en": _LATIN,
    "es": _LATIN + "áéíóúüñ",
    "eu": _LATIN + "ñçü",
    "fr": _LATIN + "àâæçèéêëîïôœùûüÿ",
    "it": _LATIN + "àèéìíîòóùú",
    "nl": _LATIN + "áàâäçèéêëíïîñóòôöúùûü",
    "pl": _LATIN + "ąćęłńóśźż",
    "pt": _LATIN + "áâãàçéêíóôõúü",
}
#: Languages that do not write spaces between words, and whose transcripts therefore have none.
_UNSPACED = ("zh", "yue", "ja", "th", "lo", "km", "my")
_APOSTROPHES = "'’‘ʼ`´′"
_SPOKEN_SYMBOLS = "%&+=@#€£$°"
#: What upper case is where Python's is not the language's: it would lose a letter.
_UPPER = {"de": {"ß": "ẞ"}, "tr": {"i": "İ"}, "az": {"i": "İ"}}
_LOWER = {"tr": {"I": "ı", "İ": "i"}, "az": {"I": "ı", "İ": "i"}}
_BESIDE_LATIN = re.compile(r"(?<=[a-z']) (?=[a-z'])")


def normalise_sentence(
    sentence: str, language: str | None = None, keep_digits: bool = False
) -> str:
    """A sentence as upper-case words; of a script without cases, as it is.

    Letters with accents that the language does not have lose them ("é" in Basque); hyphens and
    punctuation become spaces; apostrophes stay, except around a single quoted word. Languages that
    write no spaces between words (Chinese, Japanese, Thai) keep none, but between Latin ones.

    Args:
        sentence: in ordinary spelling.
        language: code such as "fr" or "zh-CN". Letters are those of `ALPHABETS`, and those of any
            script where it has no such language, or for None.
        keep_digits: digits stay, and other symbols and scripts go: no sentence with a word is
            unusable, and none is what was said.

    Raises:
        ValueError: a digit, a spoken symbol, a letter of another script, or no word. Says which.
    """
    code = "" if language is None else re.split(r"[-_]", language.lower())[0]
    text = unicodedata.normalize("NFC", sentence).translate(str.maketrans(_LOWER.get(code, {})))
    alphabet = ALPHABETS.get(code)
    kept = "".join(_letter(character, alphabet, keep_digits) for character in text.lower())
    words = [_unquoted(word) for word in kept.split()]
    words = [word for word in words if word.strip("'·")]
    if not words:
        raise ValueError(f"no word in the sentence {sentence!r}")
    line = " ".join(words)
    if code in _UNSPACED:
        line = _BESIDE_LATIN.sub("\0", line).replace(" ", "").replace("\0", " ")
    return unicodedata.normalize("NFC", line.translate(str.maketrans(_UPPER.get(code, {}))).upper())


def _letter(character: str, alphabet: str | None, keep_digits: bool) -> str:
    """What stands for a character: itself, its base letter, or a space."""
    if character in _APOSTROPHES:
        return "'"
    kind = unicodedata.category(character)
    if alphabet is None:
        if kind[0] in "LM" or character in "\u200c\u200d":  # joiners, which some scripts spell with
            return character
    elif character in alphabet:
        return character
    else:
        base = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isalpha())
        if base and all(letter in alphabet for letter in base):
            return base
        if kind.startswith("M"):  # an accent that did not combine with the letter before it
            return ""
    if keep_digits:
        return character if kind == "Nd" else " "
    if kind[0] in "LN" or character in _SPOKEN_SYMBOLS:
        raise ValueError(f"the sentence has {character!r}, which is not spelt out in this language")
    return " "


def _unquoted(word: str) -> str:
    """A word without the quotes around it; Welsh words may begin with an apostrophe ('r, 'n)."""
    quoted = len(word) > 2 and word.startswith("'") and word.endswith("'")
    return word.strip("'") if quoted else word
