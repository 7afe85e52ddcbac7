"""The registry of corpora: names, options, errors, and corpora of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from summarymixing_modules.data.corpora import (
    corpus_names,
    corpus_spec,
    register_corpus,
    registry,
    unregister_corpus,
)
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.data.preparation import Preparation
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.data.manifests import prepare_corpus
from summarymixing_modules.training.data.text import TextData
from summarymixing_modules.training.data.verification import load_verification


class EntryPoint:
    """Stands for an installed package that declares the entry point group."""

    def load(self) -> None:
        @register_corpus("mine", source="elsewhere")
        def prepare(preparation: Preparation, *, room: str, rooms: int = 3) -> Manifests:
            if not preparation.skip_prep:
                preparation.save_folder.mkdir()
                (preparation.save_folder / "rooms").write_text(f"{room} of {rooms}")
            return Manifests(preparation.save_folder / "rooms", preparation.save_folder / "none")


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint()])
    yield
    unregister_corpus("mine")


@pytest.fixture
def hparams(tmp_path: Path) -> dict[str, Any]:
    return {
        "corpus": "mine",
        "data_folder": "/data",
        "save_folder": str(tmp_path / "save"),
        "prep_workers": 1,
        "verify_audio": "header",
        "max_bad_audio": 0.0,
        "skip_prep": False,
    }


def test_those_that_are_there() -> None:
    assert set(corpus_names()) >= {
        "common_voice",
        "iemocap",
        "librilight",
        "librispeech",
        "slurp",
        "speech_commands",
        "tedlium2",
        "voxceleb",
        "voxpopuli",
    }
    assert corpus_spec("iemocap").needed == ("fold",)
    assert "seed" in corpus_spec("voxceleb").options
    assert "seed" not in corpus_spec("librilight").options  # the same speakers for every seed


def test_a_corpus_of_another_package(mine: None, hparams: dict[str, Any]) -> None:
    found = prepare_corpus({**hparams, "room": "kitchen", "unread": 1})
    assert found.train.read_text() == "kitchen of 3"


def test_a_key_that_a_corpus_needs(mine: None, hparams: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the YAML file lacks room, which --corpus=mine needs"):
        prepare_corpus({**hparams, "rooms": 5})


def test_unknown_names_list_the_known(hparams: dict[str, Any]) -> None:
    told = "--corpus=librispech: .*did you mean 'librispeech'.*Known: .*slurp"
    with pytest.raises(InputError, match=told):
        prepare_corpus({**hparams, "corpus": "librispech"})


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'slurp' is registered already"):
        register_corpus("slurp", source="a test")(lambda preparation: Manifests(Path(), Path()))


def test_what_a_corpus_does_not_have(
    mine: None, hparams: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="--corpus=mine has no trials"):
        load_verification({**hparams, "room": "kitchen"})
    monkeypatch.setattr(
        "summarymixing_modules.training.data.text.load_tokenizer",
        lambda file: type("Tokens", (), {"vocab_size": 29, "bos_index": 1}),
    )
    text = {"lm_text": None, "train_splits": ["a"], "output_neurons": 29, "tokenizer_file": "x"}
    with pytest.raises(InputError, match="--corpus=mine: its transcripts cannot be read without"):
        TextData({**hparams, **text, "max_line_length": 9})
