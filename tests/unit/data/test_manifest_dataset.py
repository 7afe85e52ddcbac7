"""Manifests that stay in their files: SpeechBrain's dataset over them, and what workers copy."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data.manifest import Manifest, Row, read_manifest, write_manifest
from summarymixing_modules.data.manifest_dataset import ManifestDataset

MEMORY = Path("/proc/self/smaps_rollup")
DURATIONS = [0.5, 0.2, 0.9, 0.2, 0.3, 0.9, 0.2]  # with ties
TEXTS = ["A", 'A "QUOTED, ÉTÉ\u2028"', "TWO\nLINES", "", "B", "C D", "E"]


def rows(count: int = len(DURATIONS)) -> list[Row]:
    places = [number % len(DURATIONS) for number in range(count)]
    return [
        Row(f"speaker-{n}", DURATIONS[at], f"$data_root/{n}.wav", f"s{at}", TEXTS[at])
        for n, at in enumerate(places)
    ]


def in_memory(manifest: Manifest) -> DynamicItemDataset:
    """The same as SpeechBrain has it: a dict of dicts."""
    items = ("duration", "spk_id", "wrd", "start", "stop")
    data = {
        row.id: {key: getattr(row, key) for key in items}
        | {"wav": row.wav.replace("$data_root", "/corpus")}
        for row in manifest
    }
    return DynamicItemDataset(data)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    write_manifest(tmp_path / "a.csv", rows())
    return read_manifest(tmp_path / "a.csv")


def contents(dataset: DynamicItemDataset) -> list[Any]:
    dataset.add_dynamic_item(lambda text: text.lower(), takes="wrd", provides="lower")
    dataset.set_output_keys(["id", "wav", "duration", "lower", "start", "stop"])
    return [list(dataset.data_ids), [dataset[n] for n in range(len(dataset))]]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sort_key": "duration"},
        {"sort_key": "duration", "reverse": True},
        {"key_min_value": {"duration": 0.3}, "key_max_value": {"duration": 0.5}},
        {"key_min_value": {"duration": 0.3}, "select_n": 2, "sort_key": "duration"},
        {"key_test": {"wrd": lambda text: len(text) > 1}, "sort_key": "spk_id", "reverse": True},
    ],
)
def test_it_filters_sorts_and_gives_what_speechbrains_does(
    manifest: Manifest, arguments: dict[str, Any]
) -> None:
    ours, theirs = ManifestDataset(manifest, "/corpus"), in_memory(manifest)
    chosen = [data.filtered_sorted(**arguments) for data in (ours, theirs)]
    again = [data.filtered_sorted(key_max_value={"duration": 0.8}) for data in chosen]
    for found, wanted in (chosen, again):
        assert contents(found) == contents(wanted)
    assert dict(ours.data) == {k: {**v} for k, v in in_memory(manifest).data.items()}
    assert ours.data_ids[1:3] == theirs.data_ids[1:3] and ours.data_ids[-1] == theirs.data_ids[-1]
    assert contents(ours.overfit_test(2, 5)) == contents(theirs.overfit_test(2, 5))
    with pytest.raises(KeyError):
        ours.data["nobody"]


def test_rows_are_there_when_the_file_is_replaced_and_for_spawned_workers(
    manifest: Manifest,
) -> None:
    assert list(pickle.loads(pickle.dumps(manifest))) == list(manifest) == rows()
    write_manifest(manifest.path, rows(1))
    assert manifest[-1] == rows()[-1] and manifest[1:3] == rows()[1:3]
    assert len(read_manifest(manifest.path)) == 1
    with pytest.raises(IndexError):
        manifest[len(DURATIONS)]


def unique_megabytes() -> float:
    """Of this process alone, in memory."""
    lines = MEMORY.read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def read_all(dataset: DynamicItemDataset, result: Connection) -> None:
    gc.disable()
    assert all(dataset[index] for index in range(1000))  # the code itself is touched, too
    before = unique_megabytes()
    for index in range(len(dataset)):
        assert dataset[index]
    result.send(unique_megabytes() - before)


@pytest.mark.skipif(not MEMORY.exists(), reason="only Linux tells the memory of a process")
def test_a_forked_worker_copies_no_utterances(tmp_path: Path) -> None:
    write_manifest(tmp_path / "big.csv", rows(100_000))
    manifest = read_manifest(tmp_path / "big.csv")
    grown = []
    for dataset in (ManifestDataset(manifest, "/corpus"), in_memory(manifest)):
        dataset.set_output_keys(["id", "wav", "wrd"])
        received, sent = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        worker = context.Process(target=read_all, args=(dataset, sent))
        worker.start()
        worker.join(timeout=60)
        grown.append(received.recv())
    assert grown[0] < 6 and grown[1] > 20  # megabytes; as dicts they are copied
