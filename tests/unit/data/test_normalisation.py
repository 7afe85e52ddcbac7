"""Sentences of many languages as transcripts."""

from __future__ import annotations

import pytest

from summarymixing_modules.data.text.normalisation import ALPHABETS, normalise_sentence


@pytest.mark.parametrize(
    ("language", "sentence", "words"),
    [
        ("ar", "مَرْحَبًا بِكُمْ!", "مَرْحَبًا بِكُمْ"),  # marks stay
        ("ca", "Col·legi d’estiu", "COL·LEGI D'ESTIU"),
        ("de", "Die „Straße“ ist groß.", "DIE STRAẞE IST GROẞ"),
        ("el", "Ο Οδυσσεύς!", "Ο ΟΔΥΣΣΕΎΣ"),
        ("en", "Naïve — well-known 'fox', isn’t it?", "NAIVE WELL KNOWN FOX ISN'T IT"),
        ("es", "¿Qué pasó, señor?", "QUÉ PASÓ SEÑOR"),
        ("eu", "Café ñoño", "CAFE ÑOÑO"),
        ("fr", "L’œuvre d’art, « cœur » : Noël !", "L'ŒUVRE D'ART CŒUR NOËL"),
        ("he", "שָׁלוֹם, עולם", "שָׁלוֹם עולם"),
        ("hi", "नमस्ते, दुनिया।", "नमस्ते दुनिया"),
        ("it", "Perché è così? L’àncora", "PERCHÉ È COSÌ L'ÀNCORA"),
        ("ja", "今日は、 良い コーヒー。", "今日は良いコーヒー"),
        ("ko", "안녕하세요, 세계!", "안녕하세요 세계"),
        ("nl", "Zo’n café, hè? ’t IJ", "ZO'N CAFÉ HÈ 'T IJ"),
        ("pl", "Zażółć gęślą jaźń", "ZAŻÓŁĆ GĘŚLĄ JAŹŃ"),
        ("pt", "Não, à mão", "NÃO À MÃO"),
        ("ru", "Ёлка и ель.", "ЁЛКА И ЕЛЬ"),
        ("th", "สวัสดี ครับ", "สวัสดีครับ"),
        ("tr", "Iğdır’da iyi bir gün", "IĞDIR'DA İYİ BİR GÜN"),
        ("zh-CN", "今 天 Open AI 发布，了 模型。", "今天OPEN AI发布了模型"),
        (None, "Привет, мир! Γειά", "ПРИВЕТ МИР ΓΕΙΆ"),
        ("en", "Œdipus, Łódź, smørrebrød, Straße", "OEDIPUS LODZ SMORREBROD STRASSE"),
        ("fr", "a\u00adprès \u200eNoël ❤\ufe0f", "APRÈS NOËL"),  # soft hyphen, direction, heart
        (None, "a\u00adprès ❤\ufe0f", "APRÈS"),
        ("ar", "كَيـــفَ الحال؟", "كَيفَ الحال"),  # made wider
        ("ja", "ｺｰﾋｰとＩＢＭ", "コーヒーとIBM"),
        ("ka", "გამარჯობა, მსოფლიო", "გამარჯობა მსოფლიო"),
        ("fa", "می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_sentences(language: str | None, sentence: str, words: str) -> None:
    assert normalise_sentence(sentence, language) == words
    assert normalise_sentence(words, language) == words, "it is done once"
    if language in ALPHABETS and language != "en":
        assert set(words.lower()) <= {*ALPHABETS[language], " ", "'"}


@pytest.mark.parametrize(
    ("language", "sentence", "problem", "kept"),
    [
        ("en", "room 5", "'5'", "ROOM 5"),
        ("hi", "कुल ५", "'५'", "कुल ५"),
        ("fr", "50 % des gens", "'5'", "50 DES GENS"),
        ("de", "das π", "'π'", "DAS"),
        (None, "a + b", "'\\+'", "A B"),
        (None, "½ Tee", "'½'", "TEE"),
        (None, "Mª José", "'ª'", "M JOSÉ"),
        ("en", "₹ sign", "'₹'", "SIGN"),
        ("zh", "＄ 今", "'\\$'", "今"),
    ],
)
def test_what_is_not_spelt_out(
    language: str | None, sentence: str, problem: str, kept: str
) -> None:
    with pytest.raises(ValueError, match=f"{problem}, which is not spelt out"):
        normalise_sentence(sentence, language)
    assert normalise_sentence(sentence, language, keep_digits=True) == kept


@pytest.mark.parametrize("language", ["en", "zh", None])
def test_no_word(language: str | None) -> None:
    with pytest.raises(ValueError, match="no word in the sentence"):
        normalise_sentence("… ’ — !", language)
