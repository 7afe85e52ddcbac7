"""Tables from what Hugging Face's datasets and Lhotse have kept."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.cli import main
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.data.table_sources import write_table
from summarymixing_modules.errors import InputError
from tests.unit.data.prepared import prepared


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Three seconds at 8 kHz."""
    file = tmp_path / "clip.flac"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(24000), 8000)
    return file


def cut(clip: Path, name: str, start: float = 0.0, duration: float = 3.0) -> dict[str, Any]:
    """A cut in the form that Lhotse 1.33 writes."""
    said = {"id": f"{name}-0", "recording_id": "clip", "start": 0, "duration": duration}
    said |= {"channel": 0, "text": "yes", "speaker": "ann", "custom": {"age": 6}}
    source = {"type": "file", "channels": [0], "source": str(clip)}
    recording = {"id": "clip", "sources": [source], "sampling_rate": 8000, "num_samples": 24000}
    recording |= {"duration": 3.0, "channel_ids": [0]}
    found = {"id": name, "start": start, "duration": duration, "channel": 0}
    return found | {"supervisions": [said], "recording": recording, "type": "MonoCut"}


def write_cuts(file: Path, *cuts: dict[str, Any]) -> Path:
    with gzip.open(file, "wt") as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in cuts)
    return file


def test_cuts_of_lhotse(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = cut(clip, "part", 0.5, 1.5)
    more = {**two["supervisions"][0], "start": 1.0, "duration": 0.5, "text": "no"}
    two["supervisions"] = [more, {**two["supervisions"][0], "duration": 1.0}]
    cuts = write_cuts(tmp_path / "cuts.jsonl.gz", cut(clip, "all"), two)
    table = tmp_path / "table.jsonl"
    assert main(["manifest", "--from", "lhotse", str(cuts), "--out", str(table)]) == 0
    assert f"--train_manifest={table}" in capsys.readouterr().out
    assert json.loads(table.read_text().splitlines()[0])["age"] == 6
    options = {"train_manifest": table, "valid_manifest": table, "wanted": ("text",)}
    options |= {"train_where": "id=part", "valid_where": "id=all"}
    manifests = prepared("manifest", tmp_path, tmp_path / "save", **options)
    part, whole = (read_manifest(path)[0] for path in (manifests.train, manifests.valid))
    assert (part.start, part.stop, part.duration, part.wrd) == (4000, 16000, 1.5, "YES NO")
    assert (whole.start, whole.stop, whole.spk_id) == (0, None, "ann")
    assert main(["manifest", "--from", "lhotse", str(cuts), "--out", str(table)]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "MixedCut", "recording": None}, "of several, or has no recording"),
        ({"transforms": [{"name": "Speed"}]}, r"changed when it is read \(Speed\)"),
        ({"sources": [{"type": "file", "channels": [0, 1], "source": "x"}]}, "several channels"),
        ({"sources": [{"type": "url", "channels": [0], "source": "x"}]}, "is a url, not a file"),
        ({"duration": 1.0}, "something that is said reaches beyond it"),
    ],
)
def test_cuts_that_are_no_rows(
    changes: dict[str, Any], message: str, clip: Path, tmp_path: Path
) -> None:
    entry = cut(clip, "one")
    for key, value in changes.items():
        if key in ("transforms", "sources"):
            entry["recording"][key] = value
        else:
            entry[key] = value
    if entry["recording"] is None:
        del entry["recording"]
    cuts, table = write_cuts(tmp_path / "cuts.jsonl.gz", entry), tmp_path / "t.jsonl"
    with pytest.raises(InputError, match=f":1: the cut one cannot be a row .*{message}"):
        write_table("lhotse", cuts, table)
    assert not table.exists()


def test_no_cuts(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("hello\n")
    whole = gzip.compress(json.dumps({"id": "x" * 1000}).encode())
    (tmp_path / "cut_off.jsonl.gz").write_bytes(whole[:-9])
    told = "are no cuts of Lhotse"
    files = {"cut_off.jsonl.gz": told, "x.jsonl": told, "y.jsonl": "no such file"}
    for file, message in files.items():
        with pytest.raises(InputError, match=message):
            write_table("lhotse", tmp_path / file, tmp_path / "t.jsonl")


def test_datasets_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="python -m pip install datasets"):
        write_table("hf", tmp_path, tmp_path / "t.jsonl")


def test_a_folder_of_hugging_face(clip: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    audio = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = {"audio": audio, "sentence": datasets.Value("string")}
    features["mood"] = datasets.ClassLabel(names=["good", "bad"])
    entry = {"audio": {"bytes": clip.read_bytes(), "path": "x.flac"}, "sentence": "yes", "mood": 1}
    data = datasets.Dataset.from_list(
        [entry, {**entry, "mood": -1}], features=datasets.Features(features)
    )
    data = data.cast_column("audio", datasets.Audio())
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "kept")
    table = tmp_path / "table.jsonl"
    assert write_table("hf", tmp_path / "kept", table) == 4
    first, second, *_ = map(json.loads, table.read_text().splitlines())
    assert second["mood"] == ""  # unknown
    assert first == {
        "sentence": "yes",
        "mood": "bad",
        "path": "table_audio/train-0000000.flac",
        "split": "train",
    }
    assert (tmp_path / first["path"]).read_bytes() == clip.read_bytes()
    with pytest.raises(InputError, match="is no folder of datasets' save_to_disk"):
        write_table("hf", tmp_path, tmp_path / "other.jsonl")
    table.unlink()
    with pytest.raises(InputError, match="table_audio: is there already"):
        write_table("hf", tmp_path / "kept", table)
    empty = datasets.Dataset.from_list(
        [{"audio": None}], datasets.Features(audio=features["audio"])
    )
    empty.cast_column("audio", datasets.Audio()).save_to_disk(tmp_path / "empty")
    with pytest.raises(InputError, match="the row all-0000000 has no audio"):
        write_table("hf", tmp_path / "empty", tmp_path / "third.jsonl")
