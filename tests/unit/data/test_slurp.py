"""SLURP's preparation: right manifests, resumable, and bad lines and recordings."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data import preparation
from summarymixing_modules.data.bad_audio import BadAudioLog, TooManyBadFiles
from summarymixing_modules.data.corpora.slurp import read_split
from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from summarymixing_modules.data.preparation import left_out
from tests.unit.data.prepared import prepared

WORDS = "wake me up at Seven AM".split()


def line(number: int, files: int = 1, **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "slurp_id": number,
        "sentence": " ".join(WORDS),
        "intent": "set",  # as in some lines of SLURP: not scenario_action
        "action": "set" if number % 2 else "remove",
        "scenario": "alarm",
        "tokens": [{"surface": word, "id": i} for i, word in enumerate(WORDS)],
        "entities": [{"span": [4, 5], "type": "time"}] if number % 2 else [],
        "recordings": [{"file": f"audio-{number}-{i}.flac"} for i in range(files)],
    }
    return record | changes


def write_split(root: Path, split: str, records: list[dict[str, Any]]) -> None:
    """An annotation file and noise for its recordings."""
    file = root / "dataset" / "slurp" / f"{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    audio = root / "audio" / ("slurp_synth" if split == "train_synthetic" else "slurp_real")
    audio.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(4000) * 0.1
    for record in records:
        for recording in record["recordings"] or ():
            soundfile.write(audio / recording["file"], noise, 16000)


@pytest.fixture
def slurp(tmp_path: Path) -> Path:
    root = tmp_path / "slurp"
    write_split(root, "train", [line(n, files=2) for n in range(10)])
    write_split(root, "train_synthetic", [line(n) for n in range(100, 103)])
    write_split(root, "devel", [line(n) for n in range(200, 203)])
    write_split(root, "test", [line(n) for n in range(300, 304)])
    return root


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "save"


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the audio files that were opened."""
    names: list[str] = []
    original = preparation.check_audio

    def note(path: Path, sample_rate: int) -> object:
        names.append(path.name)
        return original(path, sample_rate)

    monkeypatch.setattr(preparation, "check_audio", note)
    return names


def prepare(slurp: Path, save: Path, **arguments: Any) -> Manifests:
    splits = {"train_splits": ["train"], "dev_splits": ["devel"], "test_splits": ["test"]}
    return prepared("slurp", slurp, save, **{**splits, **arguments})


def annotation_file(slurp: Path, split: str = "train") -> Path:
    return slurp / "dataset" / "slurp" / f"{split}.jsonl"


def test_every_recording_is_an_utterance(slurp: Path, save: Path) -> None:
    manifests = prepare(slurp, save)
    rows = read_manifest(manifests.train)
    assert len(rows) == 20 and rows[3].id == "audio-1-1"
    assert rows[3].wav == "$data_root/audio/slurp_real/audio-1-1.flac"
    assert rows[3].duration == 0.25 and rows[3].wrd == "wake me up at Seven AM"
    annotations = read_annotations(manifests.train)
    assert list(annotations) == [row.id for row in rows]
    assert annotations["audio-1-1"] == {
        "slurp_id": 1,
        "scenario": "alarm",
        "action": "set",
        "entities": [{"type": "time", "filler": "seven am"}],
        "intent": "alarm_set",
    }
    assert len(read_manifest(manifests.valid)) == 3
    assert len(read_manifest(manifests.test["test"])) == 4


@pytest.mark.parametrize("layout", ["parent", "flat"])
def test_other_layouts(slurp: Path, save: Path, layout: str) -> None:
    folder = slurp.parent
    if layout == "flat":  # as SpeechBrain's recipe has it
        folder = slurp
        for split in ("train", "devel", "test"):
            name = {"train": "train_real"}.get(split, split)
            annotation_file(slurp, split).rename(slurp / f"{name}.jsonl")
        (slurp / "audio" / "slurp_real").rename(slurp / "slurp_real")
    manifests = prepare(folder, save)
    rows = read_manifest(manifests.train)
    assert len(rows) == 20
    assert Path(rows[0].wav.replace("$data_root", str(folder))).is_file()


def test_real_and_synthetic_speech_are_merged(slurp: Path, save: Path) -> None:
    manifests = prepare(slurp, save, train_splits=["train", "train_synthetic"])
    rows = read_manifest(manifests.train)
    assert len(rows) == 23 and rows[-1].wav.endswith("audio/slurp_synth/audio-102-0.flac")
    assert list(read_annotations(manifests.train)) == [row.id for row in rows]


def test_nothing_is_read_again_when_nothing_changed(
    slurp: Path, save: Path, examined: list[str]
) -> None:
    first = prepare(slurp, save)
    assert len(examined) == 27
    examined.clear()
    content = first.train.read_bytes()
    assert prepare(slurp, save) == first and prepare(slurp, save, skip_prep=True) == first
    assert examined == [] and first.train.read_bytes() == content


def _add_line(slurp: Path) -> None:
    file = annotation_file(slurp)
    file.write_text(file.read_text() + json.dumps(line(11, recordings=[])) + "\n")


def _remove_audio(slurp: Path) -> None:
    (slurp / "audio" / "slurp_real" / "audio-1-1.flac").unlink()


@pytest.mark.parametrize(("change", "rows"), [(_add_line, 20), (_remove_audio, 19)])
def test_a_changed_corpus_is_prepared_again(
    slurp: Path, save: Path, change: Callable[[Path], None], rows: int
) -> None:
    prepare(slurp, save)
    change(slurp)
    manifests = prepare(slurp, save)
    assert len(read_manifest(manifests.train)) == rows
    assert len(BadAudioLog(save / "bad_slurp_train.csv").read()) == 1


def test_a_stopped_preparation_continues(
    slurp: Path, save: Path, examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from summarymixing_modules.data.corpora import slurp as module

    original = module.read_split

    def stop_at_devel(annotations: Path, audio: Path) -> object:
        if annotations.stem == "devel":
            raise KeyboardInterrupt
        return original(annotations, audio)

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_split", stop_at_devel)
        with pytest.raises(KeyboardInterrupt):
            prepare(slurp, save)
    assert len(examined) == 20 and not (save / "train.csv").exists()
    prepare(slurp, save)
    assert len(examined) == 27


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recordings": []}, "has no recording"),
        ({"recordings": None}, "has no recording"),
        ({"scenario": None}, "has no 'scenario'"),
        ({"action": " "}, "has no 'action'"),
        ({"tokens": None}, "has no lists 'tokens' and 'entities'"),
        ({"entities": [{"span": [4, 6], "type": "time"}]}, "a span of its 6 tokens"),
        ({"entities": [{"span": [-1], "type": "time"}]}, "a span of its 6 tokens"),
        ({"entities": [{"span": [], "type": "time"}]}, "a span of its 6 tokens"),
        ({"entities": [{"span": [1]}]}, "a span of its 6 tokens"),
    ],
)
def test_bad_lines_are_named_counted_and_left_out(
    slurp: Path, save: Path, changes: dict[str, Any], reason: str
) -> None:
    file = annotation_file(slurp, "test")
    file.write_text(file.read_text() + json.dumps(line(399, **changes)) + "\n\n")
    with pytest.raises(TooManyBadFiles, match="slurp_test: 1 of 5 .*0 allowed by --test_max_bad"):
        prepare(slurp, save)
    manifests = prepare(slurp, save, test_max_bad_fraction=0.2)
    assert len(read_manifest(manifests.test["test"])) == 4
    assert len(left_out(manifests.test["test"])) == 1
    (bad,) = BadAudioLog(save / "bad_slurp_test.csv").read()
    assert f"{file}:5" in bad.reason and reason in bad.reason


def test_lines_that_are_no_json_and_recordings_named_twice(slurp: Path, save: Path) -> None:
    file = annotation_file(slurp)
    first = file.read_text().splitlines()[0]
    file.write_text(file.read_text() + "{broken\n[1]\n" + first + "\n")
    with pytest.raises(TooManyBadFiles) as caught:
        prepare(slurp, save)
    for part in ("slurp_train: 4 of 24", "--max_bad_audio", "is not JSON", "is not a JSON object"):
        assert part in str(caught.value)
    assert "line 1 has audio-0-0, too" in str(caught.value)
    manifests = prepare(slurp, save, max_bad_fraction=0.2)
    assert len(read_manifest(manifests.train)) == 20


def test_broken_recordings_are_left_out_and_come_back(slurp: Path, save: Path) -> None:
    broken = slurp / "audio" / "slurp_real" / "audio-2-0.flac"
    good = broken.read_bytes()
    broken.write_bytes(good[:60])
    manifests = prepare(slurp, save, verify="decode")
    assert "audio-2-0" not in read_annotations(manifests.train)
    (bad,) = BadAudioLog(save / "bad_slurp_train.csv").read()
    assert bad.id == "audio-2-0" and str(broken) in bad.reason
    broken.write_bytes(good)
    prepare(slurp, save, verify="decode")
    assert len(read_manifest(manifests.train)) == 20
    assert not (save / "bad_slurp_train.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_splits": "train"}, r"give a list, \[train\]"),
        ({"train_splits": []}, "--train_splits: name at least one of train"),
        ({"dev_splits": ["dev"]}, "--dev_splits: 'dev' is none of train.*devel"),
        ({"test_splits": ["test", "test"]}, "a split is named twice"),
        ({"test_splits": ["train"]}, "scores on training data mean nothing"),
        ({"verify": "all"}, "--verify_audio 'all': use one of header, decode"),
        ({"workers": 0}, "--prep_workers 0"),
        ({"skip_prep": True}, r"train\.csv: no such manifest, so --skip_prep"),
    ],
)
def test_bad_arguments(slurp: Path, save: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        prepare(slurp, save, **arguments)


def test_missing_parts(slurp: Path, save: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--data_folder .*nowhere: no such folder"):
        prepare(tmp_path / "nowhere", save)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="found no dataset/slurp/train.jsonl"):
        prepare(tmp_path / "empty", save)
    write_split(slurp, "devel", [])
    with pytest.raises(ManifestError, match="slurp_devel: there is no usable utterance"):
        prepare(slurp, save)
    (slurp / "audio").rename(slurp / "sound")
    with pytest.raises(ManifestError, match="found no folder audio/slurp_real.*zenodo"):
        prepare(slurp, save)
    annotation_file(slurp).write_bytes(b"\xff\xfe")
    (slurp / "sound").rename(slurp / "audio")
    with pytest.raises(ManifestError, match="is not UTF-8"):
        prepare(slurp, save)


def test_an_annotation_that_was_damaged(slurp: Path, save: Path) -> None:
    manifests = prepare(slurp, save)
    annotations = manifests.valid.with_suffix(".jsonl")
    annotations.write_text(annotations.read_text() + "half a li")
    with pytest.raises(ManifestError, match=r"valid\.jsonl:4: not an annotation"):
        read_annotations(manifests.valid)
    prepare(slurp, save)
    assert len(read_annotations(manifests.valid)) == 3


@pytest.mark.parametrize(("split", "recordings"), [("devel", 8690), ("test", 13078)])
def test_slurps_own_annotations(split: str, recordings: int, tmp_path: Path) -> None:
    checkout = Path(__file__).resolve().parents[3]
    data = Path(os.environ.get("SUMMARYMIXING_SPEECH_DATA", checkout.parent / "shared" / "data"))
    packed = data / "slurp_text" / f"{split}.jsonl.gz"
    if not packed.is_file():
        pytest.skip(f"no SLURP annotations in {data} (set SUMMARYMIXING_SPEECH_DATA)")
    (tmp_path / "x.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))
    listing = read_split(tmp_path / "x.jsonl", tmp_path)
    assert len(listing.utterances) == recordings and not listing.bad
    annotations = [utterance.annotation for utterance in listing.utterances]
    assert len({a["scenario"] for a in annotations}) == 18
    assert len({a["intent"] for a in annotations}) == 59
    assert len({e["type"] for a in annotations for e in a["entities"]}) == 53
