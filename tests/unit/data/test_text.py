"""Text for language models: lines from plain and compressed files, in any order."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from summarymixing_modules.data.text.lines import (
    LineBatchSampler,
    LineDataset,
    LineStore,
    build_line_store,
)
from summarymixing_modules.data.text.tokenizers import CharTokenizer, TextError


def test_lines_come_back_clean(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("  ONE  TWO\t\n\n \nÉTÉ")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("\n".join(f"LINE {i}" for i in range(2500)))
    files = [tmp_path / "a.txt", tmp_path / "b.txt.gz"]
    store = build_line_store(tmp_path / "store", files, ["FIRST"], progress=False)
    assert len(store) == 2503 == store.about["lines"]
    assert [store[i] for i in (0, 1, 2, 3, 2502)] == [
        "FIRST", "ONE TWO", "ÉTÉ", "LINE 0", "LINE 2499"
    ]  # fmt: skip
    assert store.lengths[:3].tolist() == [5, 7, 5]
    assert set("ÉT09 ") <= set(store.about["characters"]) and "\t" not in store.about["characters"]
    for outside in (-1, 2503):
        with pytest.raises(IndexError):
            store[outside]


def test_what_is_there_is_used_until_a_source_changes(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("ONE\n")
    build_line_store(tmp_path / "store", [text], progress=False)
    before = (tmp_path / "store" / "lines.txt").stat().st_ino
    again = build_line_store(tmp_path / "store", [text], progress=False)
    assert (tmp_path / "store" / "lines.txt").stat().st_ino == before and again[0] == "ONE"
    text.write_text("TWO\n")
    os.utime(text, ns=(1, 1))
    assert build_line_store(tmp_path / "store", [text], progress=False)[0] == "TWO"
    assert build_line_store(tmp_path / "store", [text], ["X"], progress=False)[0] == "X"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_long_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    store = build_line_store(tmp_path / "s", [], ["A" * 11, "B" * 10], 10, progress=False)
    assert len(store) == 1 and store[0] == "B" * 10 and store.about["too_long"] == 1


def test_bad_files_are_told(tmp_path: Path) -> None:
    def build(path: Path) -> None:
        build_line_store(tmp_path / "store", [path], progress=False)

    with pytest.raises(TextError, match="nowhere.txt: no such file"):
        build(tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(TextError, match="empty.txt: no line of text"):
        build(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"GOOD\nCAF\xc9\n")
    with pytest.raises(TextError, match="latin.txt: line 2 is not UTF-8"):
        build(tmp_path / "latin.txt")
    whole = gzip.compress(b"SOME TEXT\n" * 5000)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "plain.gz").write_text("NOT COMPRESSED\n")
    for name in ("cut.gz", "plain.gz"):
        with pytest.raises(TextError, match=f"{name}: is damaged"):
            build(tmp_path / name)
    assert not (tmp_path / "store").exists()
    with pytest.raises(TextError, match="holds no lines of text"):
        LineStore(tmp_path)


def test_examples_have_marks(tmp_path: Path) -> None:
    store = build_line_store(tmp_path / "store", [], ["CAB", "B"], progress=False)
    data = LineDataset(store, CharTokenizer("ABC", bos_eos=True), "train")
    assert len(data) == 2 and data[1]["id"] == "train:1"
    assert data[0]["tokens_bos"].tolist() == [1, 5, 3, 4]
    assert data[0]["tokens_eos"].tolist() == [5, 3, 4, 2]
    bare = LineDataset(store, CharTokenizer("ABC"), "train")[0]  # of a transducer
    assert bare["tokens_bos"].tolist() == [0, 3, 1, 2]
    assert bare["tokens_eos"].tolist() == [3, 1, 2, 0]
    with pytest.raises(TextError, match="train: the text holds 'C', for which"):
        LineDataset(store, CharTokenizer("AB", bos_eos=True), "train")


def test_a_store_goes_to_workers(tmp_path: Path) -> None:
    store = build_line_store(tmp_path / "store", [], ["ABC", "B"], progress=False)
    assert store[1] == "B"  # opens the file, which cannot be sent
    assert pickle.loads(pickle.dumps(store))[0] == "ABC"
    data = LineDataset(store, CharTokenizer("ABC", bos_eos=True), "train")
    sampler = LineBatchSampler(store.lengths, 1, seed=0)
    loader = DataLoader(data, batch_sampler=sampler, num_workers=1, collate_fn=lambda b: b[0])
    assert sorted(example["id"] for example in loader) == ["train:0", "train:1"]


def test_batches_hold_every_line_once_with_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 1003)
    sampler = LineBatchSampler(lengths, 16, seed=1, pool=20)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 63
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert max(len(batch) for batch in batches) == 16
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded / lengths.sum() < 1.1
    assert lengths[batches[0]].mean() != sorted(lengths)[0], "the order of batches is random"


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.arange(1, 101)

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LineBatchSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        list(sampler)
        return np.concatenate(list(sampler)).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)
    with pytest.raises(ValueError, match="--batch_size 0"):
        LineBatchSampler(lengths, 0, 1)
