"""Datasets: the items, the order, the length limits, and broken audio while training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data.audio import read_audio
from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.batching import EmptyBatch, collate
from summarymixing_modules.data.dataset import SpeechDatasets, make_datasets
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import CharTokenizer, TextError, Tokenizer
from tests.unit.data.prepared import prepared

ManifestMaker = Callable[..., Path]
DURATIONS = [0.5, 0.2, 0.9, 0.4, 0.3, 0.8]


@pytest.fixture
def build(noise_manifest: ManifestMaker, tmp_path: Path) -> Callable[..., SpeechDatasets]:
    """Datasets of noise: six training utterances, two for validation, two for test."""

    def make(**arguments: Any) -> SpeechDatasets:
        texts = arguments.pop("texts", None)
        return make_datasets(
            noise_manifest("tr", DURATIONS, texts),
            noise_manifest("va", [0.3, 0.1]),
            {"test-clean": noise_manifest("te", [0.2, 0.1])},
            **{
                "data_root": tmp_path / "audio",
                "tokenizer": CharTokenizer(),
                "bad_audio_csv": tmp_path / "bad_audio.csv",
                **arguments,
            },
        )

    return make


def durations(dataset: DynamicItemDataset) -> list[float]:
    return [dataset.data[name]["duration"] for name in dataset.data_ids]


def spoil(datasets: SpeechDatasets, count: int) -> list[str]:
    """Empty the first files of the training set."""
    names = datasets.train.data_ids[:count]
    for name in names:
        Path(datasets.train.data[name]["wav"]).write_bytes(b"")
    return names


def test_items_of_an_example(build: Callable[..., SpeechDatasets], tmp_path: Path) -> None:
    datasets = build(sorting="random")
    example = datasets.train[0]
    assert list(example) == ["id", "sig", "wrd", "tokens", "duration"]
    assert example["id"] == "tr-0" and example["wrd"] == "TEXT A" and example["duration"] == 0.5
    assert torch.equal(example["sig"], read_audio(tmp_path / "audio" / "tr-0.wav"))
    assert example["tokens"].dtype == torch.int64
    assert CharTokenizer().decode(example["tokens"].tolist()) == "TEXT A"
    assert list(datasets.test) == ["test-clean"]


@pytest.mark.parametrize("kind", ["char", "sentencepiece"])
def test_marks_for_attention_decoders(
    build: Callable[..., SpeechDatasets],
    noise_manifest: ManifestMaker,
    tmp_path: Path,
    kind: str,
) -> None:
    texts = noise_manifest("text", [0.1] * 26)
    tokenizer: Tokenizer = (
        CharTokenizer(bos_eos=True)
        if kind == "char"
        else SentencePieceTokenizer.train(texts, tmp_path, None, "char", bos_eos=True)
    )
    example = build(tokenizer=tokenizer).train[0]
    assert example["tokens_bos"].tolist() == [1, *example["tokens"].tolist()]
    assert example["tokens_eos"].tolist() == [*example["tokens"].tolist(), 2]
    assert example["tokens_bos"].dtype == torch.int64


@pytest.mark.parametrize(
    ("sorting", "expected"),
    [
        ("ascending", sorted(DURATIONS)),
        ("descending", sorted(DURATIONS, reverse=True)),
        ("random", DURATIONS),
    ],
)
def test_order(build: Callable[..., SpeechDatasets], sorting: str, expected: list[float]) -> None:
    datasets = build(sorting=sorting)
    assert durations(datasets.train) == expected
    assert durations(datasets.valid) == [0.1, 0.3]
    assert durations(datasets.test["test-clean"]) == [0.1, 0.2]


def test_length_limits_apply_to_training_and_are_logged(
    build: Callable[..., SpeechDatasets], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        datasets = build(avoid_if_longer_than=0.8, avoid_if_shorter_than=0.3)
    assert durations(datasets.train) == [0.3, 0.4, 0.5, 0.8]
    assert durations(datasets.valid) == [0.1, 0.3]
    assert "2 of 6 training utterances left out" in caplog.text
    with pytest.raises(
        ManifestError, match=r"leave no training utterance: they last 0\.20 to 0\.9"
    ):
        build(avoid_if_shorter_than=30)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_dropped_noted_and_training_goes_on(
    build: Callable[..., SpeechDatasets], workers: int
) -> None:
    datasets = build(max_bad_fraction=0.5)
    (broken,) = spoil(datasets, 1)
    for _ in range(2):
        loader = make_dataloader(
            datasets.train, batch_size=2, collate_fn=collate, num_workers=workers
        )
        batches = list(loader)
        assert [len(batch) for batch in batches] == [1, 2, 2]
        assert broken not in [name for batch in batches for name in batch.id]
        assert batches[1].sig.data.shape == (2, 8000)
        assert batches[1].sig.lengths.tolist() == pytest.approx([0.8, 1.0])
    (listed,) = datasets.bad_audio.read()
    assert listed.id == broken and "the file is empty" in listed.reason


def test_a_batch_without_a_readable_file_is_an_empty_one(
    build: Callable[..., SpeechDatasets],
) -> None:
    datasets = build(max_bad_fraction=0.5)
    broken = spoil(datasets, 2)
    first, *others = make_dataloader(datasets.train, batch_size=2, collate_fn=collate)
    assert isinstance(first, EmptyBatch)
    assert first.is_empty and len(first) == 0 and first.id == broken
    assert first.to("cpu", non_blocking=True) is first and first.pin_memory() is first
    assert [len(batch) for batch in others] == [2, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_files_stop_the_run(
    build: Callable[..., SpeechDatasets], workers: int
) -> None:
    datasets = build(max_bad_fraction=0.25)
    spoil(datasets, 3)
    loader = make_dataloader(datasets.train, batch_size=2, collate_fn=collate, num_workers=workers)
    with pytest.raises(TooManyBadFiles, match="3 of 8 utterances are unusable, more than the 2"):
        list(loader)


def test_a_test_set_is_whole_unless_it_is_asked_for_less(
    build: Callable[..., SpeechDatasets], tmp_path: Path
) -> None:
    for allowed, flags in ((False, {}), (True, {"test_max_bad_fraction": 0.5})):
        datasets = build(max_bad_fraction=1.0, **flags)
        (tmp_path / "audio" / "te-1.wav").write_bytes(b"")
        loader = make_dataloader(datasets.test["test-clean"], batch_size=2, collate_fn=collate)
        if allowed:
            assert [batch.id for batch in loader] == [["te-0"]]
        else:
            with pytest.raises(TooManyBadFiles, match="1 of 2 .*raise --test_max_bad_audio"):
                list(loader)
            (tmp_path / "bad_test_audio.csv").unlink()


def test_audio_of_another_rate_is_resampled(build: Callable[..., SpeechDatasets]) -> None:
    as_it_is, resampled = build().train[0]["sig"], build(sample_rate=8000).train[0]["sig"]
    assert len(resampled) == -(-len(as_it_is) // 2)


def test_manifests_that_cannot_be_used(
    build: Callable[..., SpeechDatasets], noise_manifest: ManifestMaker, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match="--sorting 'longest': use ascending"):
        build(sorting="longest")
    with pytest.raises(ManifestError, match=r"--data_folder .*moved.*first file of .*tr\.csv"):
        build(data_root=tmp_path / "moved")
    with pytest.raises(TextError, match="utterance tr-2: .*no token for '3'"):
        build(texts=["A", "B", "C3", "D", "E", "F"])
    with pytest.raises(ManifestError, match="utterance tr-1 has an empty transcript"):
        build(texts=["A", "", "C", "D", "E", "F"])
    empty, csv_path = noise_manifest("empty", []), noise_manifest("ok", [0.1])
    arguments = (tmp_path / "audio", CharTokenizer(), tmp_path / "bad.csv")
    with pytest.raises(ManifestError, match=r"empty\.csv: has no utterances"):
        make_datasets(empty, csv_path, {}, *arguments)
    with pytest.raises(ManifestError, match="cannot be called 'valid'"):
        make_datasets(csv_path, csv_path, {"valid": csv_path}, *arguments)


def test_from_corpus_to_batch(corpus: Path, tmp_path: Path) -> None:
    save = tmp_path / "save"
    manifests = prepared(
        "librispeech",
        corpus,
        save,
        train_splits=["train-clean-100"],
        dev_splits=["dev-clean"],
        test_splits=["test-clean"],
    )
    moved = tmp_path / "moved"
    shutil.move(corpus, moved)
    datasets = make_datasets(
        manifests.train, manifests.valid, manifests.test, moved, CharTokenizer(), save / "bad.csv"
    )
    batch = next(iter(make_dataloader(datasets.train, batch_size=4, collate_fn=collate)))
    assert batch.sig.data.shape[0] == batch.tokens.data.shape[0] == len(batch.wrd) == 4
    lengths = (batch.sig.lengths * batch.sig.data.shape[1]).round() / 16000
    assert lengths.tolist() == pytest.approx(batch.duration.tolist(), abs=1e-4)
    assert not datasets.bad_audio.read()
