"""A language model as a folder: written, read, and everything that can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from summarymixing_modules.data.manifest import Row, write_manifest
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.language_model import LanguageModel
from summarymixing_modules.training.lm_folder import (
    check_lm_folder,
    load_language_model,
    load_tokenizer,
    save_language_model,
    save_tokenizer,
)

TOKENIZER = CharTokenizer("ABC", bos_eos=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = LanguageModel(6, 16, 2, 1, 32, d_embedding=8, normalize_before=True)
    return save_language_model(model, TOKENIZER, tmp_path / "lm")


@torch.no_grad()
def test_what_is_read_is_what_was_written(folder: Path) -> None:
    torch.manual_seed(0)
    model = LanguageModel(6, 16, 2, 1, 32, d_embedding=8, normalize_before=True).eval()
    read = load_language_model(folder, TOKENIZER, LanguageModel)
    assert not read.training
    tokens_BU = torch.tensor([[1, 3, 4, 5]])
    assert torch.equal(read(tokens_BU), model(tokens_BU))
    save_language_model(LanguageModel(6, 16, 2, 1, 64), TOKENIZER, folder)
    read = load_language_model(folder, TOKENIZER, LanguageModel)
    assert read.encoder.layers[0].pos_ffn.ffn[0].out_features == 64
    assert sorted(path.name for path in folder.parent.iterdir()) == ["lm"]


@torch.no_grad()
def test_a_line_scores_the_same_alone_and_sees_no_future(folder: Path) -> None:
    model = load_language_model(folder, TOKENIZER, LanguageModel)
    tokens_BU = torch.tensor([[1, 3, 4, 5, 3], [1, 4, 3, 0, 0]])
    beside = model(tokens_BU)
    torch.testing.assert_close(beside[1:, :3], model(tokens_BU[1:, :3]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(beside[:1, :3], model(tokens_BU[:1, :3]), atol=1e-5, rtol=1e-5)
    assert beside.isfinite().all()


def test_both_kinds_of_tokenizer(tmp_path: Path) -> None:
    path = save_tokenizer(TOKENIZER, tmp_path)
    assert path.name == "tokenizer.json" and load_tokenizer(path).pieces() == TOKENIZER.pieces()
    rows = [
        Row("a", 1.0, "a.wav", "s", "ABBA CAB ABACUS BAD CAD DAB"),
        Row("b", 1.0, "b", "s", "A"),
    ]
    write_manifest(tmp_path / "train.csv", rows)
    pieces = SentencePieceTokenizer.train(tmp_path / "train.csv", tmp_path, 14, "bpe", True)
    path = save_tokenizer(pieces, tmp_path)
    assert path.name == "tokenizer.model" and load_tokenizer(path).pieces() == pieces.pieces()
    with pytest.raises(InputError, match="--tokenizer_file .*nowhere.json: no such file"):
        load_tokenizer(tmp_path / "nowhere.json")


def test_a_wrong_folder_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        check_lm_folder(folder / "x")
    with pytest.raises(InputError, match=f"Did you mean {folder}"):
        check_lm_folder(folder.parent)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="it has no config.json. Give the folder `lm`"):
        check_lm_folder(folder)
    (folder / "4-gram.arpa.gz").touch()
    with pytest.raises(InputError, match="4-gram.arpa.gz looks like an n-gram"):
        check_lm_folder(folder)


def test_another_tokenizer_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match="another tokenizer .6 tokens, characters.*7 tokens"):
        load_language_model(folder, CharTokenizer("ABCD", bos_eos=True), LanguageModel)


def test_damaged_files_are_told(folder: Path) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    content = weights.read_bytes()
    weights.write_bytes(content[:-20])
    with pytest.raises(InputError, match="model.safetensors is missing or damaged"):
        load_language_model(folder, TOKENIZER, LanguageModel)
    weights.unlink()
    with pytest.raises(InputError, match="model.safetensors is missing or damaged"):
        load_language_model(folder, TOKENIZER, LanguageModel)
    weights.write_bytes(content)
    written = json.loads(config.read_text())
    written["model"]["arguments"]["d_ffn"] = 48
    config.write_text(json.dumps(written))
    with pytest.raises(InputError, match="weights have another size than config.json says.*ffn"):
        load_language_model(folder, TOKENIZER, LanguageModel)
    for text in ("{", "[]", '{"format": "something"}'):
        config.write_text(text)
        with pytest.raises(InputError, match="config.json is of something else"):
            load_language_model(folder, TOKENIZER, LanguageModel)
