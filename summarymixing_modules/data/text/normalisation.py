"""Sentences in ordinary spelling as transcripts: letters of the language, apostrophes and spaces.

What is not spoken (punctuation) goes; what is spoken but not spelt out (digits, "%") makes a
sentence unusable, because nobody knows the words, unless it is to be kept.
"""

from __future__ import annotations

import functools
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
#: Besides every currency. The ordinals of Spanish are letters to Unicode.
_SPOKEN_SYMBOLS = "%‰٪&+=×÷±@#°§№ªº"
#: Letters that are not written with an accent, and still have others that stand for them.
_PLAIN = {"æ": "ae", "œ": "oe", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th"}
#: Other forms of the same letter: full-width, half-width, those of old Arabic fonts.
_FORMS = ("<wide>", "<narrow>", "<initial>", "<medial>", "<final>", "<isolated>")
_JOINERS = "\u200c\u200d"  # which some scripts spell with
_LENGTHENING = "\u0640"  # Arabic: makes a word wider
#: What upper case is where Python's is not the language's: it would lose a letter.
_TURKISH = str.maketrans("i", "İ")
#: Unicode has capitals of Georgian, which nobody writes.
_GEORGIAN_CAPITALS = {0x1C90 + letter: 0x10D0 + letter for letter in range(48)}
_UPPER = {"de": str.maketrans("ß", "ẞ"), "tr": _TURKISH, "az": _TURKISH}
_LOWER = dict.fromkeys(("tr", "az"), str.maketrans("Iİ", "ıi"))
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
    text = unicodedata.normalize("NFC", sentence).translate(_LOWER.get(code, {}))
    kept = text.lower().translate(_letters(code, keep_digits))
    words = [_unquoted(word) for word in kept.split()]
    words = [word for word in words if word.strip("'·")]
    if not words:
        raise ValueError(f"no word in the sentence {sentence!r}")
    line = " ".join(words)
    if code in _UNSPACED:
        line = _BESIDE_LATIN.sub("\0", line).replace(" ", "").replace("\0", " ")
    capitals = line.translate(_UPPER.get(code, {})).upper().translate(_GEORGIAN_CAPITALS)
    return unicodedata.normalize("NFC", capitals)


class _Letters(dict[int, str]):
    """What stands for characters, each thought about once: millions of sentences are read."""

    def __init__(self, alphabet: str | None, keep_digits: bool) -> None:
        super().__init__()
        self._settings = alphabet, keep_digits

    def __missing__(self, ordinal: int) -> str:
        self[ordinal] = letter = _letter(chr(ordinal), *self._settings)
        return letter


@functools.cache
def _letters(code: str, keep_digits: bool) -> _Letters:
    return _Letters(ALPHABETS.get(code), keep_digits)


def _letter(character: str, alphabet: str | None, keep_digits: bool) -> str:
    """What stands for a character: itself, its base letter, a space or nothing."""
    if character in _APOSTROPHES:
        return "'"
    if unicodedata.decomposition(character).startswith(_FORMS):
        usual = unicodedata.normalize("NFKC", character).lower()
        return "".join(_letter(letter, alphabet, keep_digits) for letter in usual)
    kind = unicodedata.category(character)
    if _is_invisible(character, kind):
        return ""
    spoken = kind == "Sc" or character in _SPOKEN_SYMBOLS
    if alphabet is None:
        if kind[0] in "LM" and not spoken or character in _JOINERS:
            return character
    elif character in alphabet:
        return character
    elif not spoken:
        parts = unicodedata.normalize("NFKD", character)
        base = "".join(_PLAIN.get(part, part) for part in parts if part.isalpha())
        if base and all(letter in alphabet for letter in base):
            return base
        if kind.startswith("M"):  # an accent that did not combine with the letter before it
            return ""
    if keep_digits:
        return character if kind == "Nd" else " "
    if spoken or kind[0] in "LN":
        raise ValueError(f"the sentence has {character!r}, which is not spelt out in this language")
    return " "


def _is_invisible(character: str, kind: str) -> bool:
    """Whether it is no part of the word: a soft hyphen, a mark of direction, how to draw a sign."""
    variant = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return variant or character == _LENGTHENING or (kind == "Cf" and character not in _JOINERS)


def _unquoted(word: str) -> str:
    """A word without the quotes around it; Welsh words may begin with an apostrophe ('r, 'n)."""
    quoted = len(word) > 2 and word.startswith("'") and word.endswith("'")
    return word.strip("'") if quoted else word
