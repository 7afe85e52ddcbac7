"""Tokenizers: round trips, a reserved blank, saved tables, and errors that name the flag."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from summarymixing_modules.data.demo.grammar import make_sentences
from summarymixing_modules.data.manifest import DATA_ROOT, ManifestError, Row, write_manifest
from summarymixing_modules.data.text.sentencepiece_tokenizer import (
    SentencePieceTokenizer,
    build_tokenizer,
)
from summarymixing_modules.data.text.tokenizers import CharTokenizer, TextError, Tokenizer

TEXTS = [sentence.text for sentence in make_sentences(150, seed=1)]


def write_texts(path: Path, texts: list[str]) -> Path:
    write_manifest(
        path,
        [Row(f"u{i}", 1.0, f"{DATA_ROOT}/{i}.flac", "s", text) for i, text in enumerate(texts)],
    )
    return path


@pytest.fixture
def train_csv(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "train.csv", TEXTS)


@pytest.fixture(params=["librispeech_char", "char", "unigram", "bpe", "sentencepiece_char"])
def make_tokenizer(
    request: pytest.FixtureRequest, train_csv: Path, tmp_path: Path
) -> Callable[[bool], Tokenizer]:
    def make(bos_eos: bool) -> Tokenizer:
        if request.param == "sentencepiece_char":
            return SentencePieceTokenizer.train(train_csv, tmp_path, None, "char", bos_eos)
        size = 80 if request.param in ("unigram", "bpe") else None
        return build_tokenizer(request.param, train_csv, tmp_path / "tok", size, bos_eos)

    return make


@pytest.mark.parametrize("bos_eos", [False, True])
def test_round_trip_without_reserved_indices(
    make_tokenizer: Callable[[bool], Tokenizer], bos_eos: bool
) -> None:
    tokenizer = make_tokenizer(bos_eos)
    reserved = {0, 1, 2} if bos_eos else {0}
    assert tokenizer.blank_index == 0
    assert (tokenizer.bos_index, tokenizer.eos_index) == ((1, 2) if bos_eos else (None, None))
    for text in TEXTS:
        indices = tokenizer.encode(text)
        assert tokenizer.decode(indices) == text
        assert not reserved & set(indices)
        assert max(indices) < tokenizer.vocab_size
    with_marks = [*reserved, *tokenizer.encode(TEXTS[0]), *reserved]
    assert tokenizer.decode(with_marks) == TEXTS[0]
    assert tokenizer.decode([]) == ""
    with pytest.raises(IndexError, match="outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


def test_unknown_characters_name_utterance_and_remedy(
    make_tokenizer: Callable[[bool], Tokenizer],
) -> None:
    tokenizer = make_tokenizer(False)
    assert tokenizer.unknown_characters("ABÉ 7") == ["7", "É"]
    assert set(tokenizer.characters()) == set(" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    with pytest.raises(TextError) as caught:
        tokenizer.encode("CAFÉ 7", "19-198-0001")
    for part in ("utterance 19-198-0001", "'7', 'É'", "'CAFÉ 7'", "correct the transcript"):
        assert part in str(caught.value)


def test_the_fixed_table_is_librispeechs() -> None:
    tokenizer = CharTokenizer()
    assert tokenizer.vocab_size == 29
    assert tokenizer.encode(" 'AZ") == [1, 2, 3, 28]


def test_characters_of_a_manifest_saved_and_loaded(tmp_path: Path) -> None:
    csv_path = write_texts(tmp_path / "few.csv", ["AÑO", "BAÑO"])
    tokenizer = CharTokenizer.from_manifest(csv_path, bos_eos=True)
    assert tokenizer.vocab_size == 3 + 4
    tokenizer.save(tmp_path / "deep" / "char.json")
    loaded = CharTokenizer.load(tmp_path / "deep" / "char.json")
    assert loaded.characters() == tokenizer.characters() == "ABOÑ"
    assert loaded.encode("BAÑO") == tokenizer.encode("BAÑO")
    assert (loaded.bos_index, loaded.eos_index) == (1, 2)
    with pytest.raises(TextError, match="at least one character"):
        CharTokenizer("")


@pytest.mark.parametrize("content", [None, "", "[]", '{"characters": "AB"}'])
def test_files_that_hold_no_character_table(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "char.json").write_text(content)
    with pytest.raises(TextError, match=r"char\.json: is not a character tokenizer"):
        CharTokenizer.load(tmp_path / "char.json")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sizes_that_the_text_does_not_allow(
    train_csv: Path, tmp_path: Path, model_type: str
) -> None:
    def train(size: int) -> SentencePieceTokenizer:
        return SentencePieceTokenizer.train(train_csv, tmp_path, size, model_type)  # type: ignore[arg-type]

    with pytest.raises(TextError, match=r"--output_neurons \(--num_tokens\) is 9000.*") as caught:
        train(9000)
    largest = int(str(caught.value).rpartition("the largest possible size is ")[2])
    assert train(largest).vocab_size == largest
    with pytest.raises(TextError, match=f"the largest possible size is {largest}"):
        train(largest + 1)
    with pytest.raises(TextError, match="the smallest possible size is 29"):
        train(5)
    for useless in (0, None):
        with pytest.raises(TextError, match=f"is {useless}: give the vocabulary size"):
            train(useless)  # type: ignore[arg-type]
    assert list(tmp_path.glob("*.model")) == [train(largest).model_path]


@pytest.mark.parametrize("token_type", ["librispeech_char", "char"])
def test_character_tables_decide_the_size(train_csv: Path, tmp_path: Path, token_type: str) -> None:
    assert build_tokenizer(token_type, train_csv, tmp_path, 29).vocab_size == 29  # type: ignore[arg-type]
    with pytest.raises(TextError, match="is 1000, but .*has 29 tokens, blank included: set it to"):
        build_tokenizer(token_type, train_csv, tmp_path, 1000)  # type: ignore[arg-type]


def test_sentencepiece_characters_decide_the_size(train_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="is 10, but the training text makes 29 char tokens"):
        SentencePieceTokenizer.train(train_csv, tmp_path, 10, "char")


def test_models_are_cached_by_text_and_settings(
    train_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SentencePieceTokenizer.train(train_csv, tmp_path / "tok", 60)
    with monkeypatch.context() as patch:
        patch.delattr("sentencepiece.SentencePieceTrainer.train")
        again = SentencePieceTokenizer.train(train_csv, tmp_path / "tok", 60)
    assert again.model_path == first.model_path
    other_folder = SentencePieceTokenizer.train(train_csv, tmp_path / "other", 60)
    assert other_folder.model_path.read_bytes() == first.model_path.read_bytes()
    write_texts(train_csv, [*TEXTS, "ONE MORE SENTENCE"])
    changed = [
        SentencePieceTokenizer.train(train_csv, tmp_path / "tok", 60),
        SentencePieceTokenizer.train(train_csv, tmp_path / "tok", 61),
        SentencePieceTokenizer.train(train_csv, tmp_path / "tok", 60, "bpe"),
        SentencePieceTokenizer.train(train_csv, tmp_path / "tok", 60, bos_eos=True),
    ]
    assert len({tokenizer.model_path for tokenizer in (first, *changed)}) == 5


def test_processes_that_train_at_once_agree(train_csv: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (train_csv, tmp_path / "tok", 60)
    processes = [
        context.Process(target=SentencePieceTokenizer.train, args=arguments) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(list((tmp_path / "tok").glob("*.model"))) == 1


def test_unknown_names_missing_text_and_broken_models(train_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="--token_type 'words': use librispeech_char, char"):
        build_tokenizer("words", train_csv, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TextError, match="--model_type 'word': use unigram, bpe, char"):
        SentencePieceTokenizer.train(train_csv, tmp_path, 50, "word")  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=r"gone\.csv: no such manifest"):
        build_tokenizer("char", tmp_path / "gone.csv", tmp_path)
    empty = write_texts(tmp_path / "empty.csv", [])
    with pytest.raises(TextError, match=r"empty\.csv: has no transcripts"):
        SentencePieceTokenizer.train(empty, tmp_path, 50)
    (tmp_path / "bad.model").write_text("no model")
    for name in ("bad.model", "gone.model"):
        with pytest.raises(TextError, match=f"{name}: is not a SentencePiece model"):
            SentencePieceTokenizer(tmp_path / name)


def test_a_model_without_room_for_the_blank(tmp_path: Path) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "foreign"),
        vocab_size=60,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    with pytest.raises(TextError, match="its <unk> has index 1, but index 0 has to be free"):
        SentencePieceTokenizer(tmp_path / "foreign.model")
