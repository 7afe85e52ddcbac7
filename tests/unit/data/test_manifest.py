"""Manifests: SpeechBrain's columns, round trips, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data.manifest import (
    ManifestError,
    Row,
    merge_manifests,
    read_manifest,
    write_manifest,
)

ROWS = [
    Row("1-2-0000", 1.25, "$data_root/dev/a b.flac", "1-2", "IT'S A TEST"),
    Row("1-2-0001", 2.0, "$data_root/dev/c,d.flac", "1-2", "ANOTHER"),
]


def test_round_trip_and_speechbrain_reads_it(tmp_path: Path) -> None:
    write_manifest(tmp_path / "deep" / "a.csv", ROWS)
    path = tmp_path / "deep" / "a.csv"
    assert path.read_text().startswith("ID,duration,wav,spk_id,wrd\n")
    assert list(read_manifest(path)) == ROWS
    dataset = DynamicItemDataset.from_csv(str(path), replacements={"data_root": "/corpus"})
    dataset.set_output_keys(["id", "duration", "wav", "wrd"])
    assert dataset[0] == {
        "id": "1-2-0000",
        "duration": 1.25,
        "wav": "/corpus/dev/a b.flac",
        "wrd": "IT'S A TEST",
    }
    assert [file.name for file in path.parent.iterdir()] == ["a.csv"]


def test_merge_keeps_order_and_refuses_repeated_ids(tmp_path: Path) -> None:
    first, second, merged = (tmp_path / name for name in ("a.csv", "b.csv", "train.csv"))
    write_manifest(first, ROWS[1:])
    write_manifest(second, ROWS[:1])
    merge_manifests([first, second], merged)
    assert list(read_manifest(merged)) == [ROWS[1], ROWS[0]]
    write_manifest(second, ROWS)
    with pytest.raises(ManifestError, match=r"ID 1-2-0001 is in a\.csv and in b\.csv"):
        merge_manifests([first, second], merged)
    assert list(read_manifest(merged)) == [ROWS[1], ROWS[0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,duration,wav\n", "lacks the columns spk_id, wrd"),
        ("", "lacks the columns ID"),
        ("ID,duration,wav,spk_id,wrd\na,long,w,s,T\n", r":2: the duration 'long' is not a number"),
        ("ID,duration,wav,spk_id,wrd\na,1,w,s,T\na,1,w,s,T\n", r":3: the ID a occurs twice"),
    ],
)
def test_malformed_manifests(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "a.csv")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone\.csv: no such manifest: prepare the corpus"):
        read_manifest(tmp_path / "gone.csv")
