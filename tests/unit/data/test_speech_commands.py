"""Speech Commands' preparation: splits, drawn classes, and bad corpora."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.bad_audio import BadAudioLog, TooManyBadFiles
from summarymixing_modules.data.corpora.speech_commands import (
    CommandsTask,
)
from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from tests.unit.data.prepared import prepared

WORDS = ("yes", "no", "cat", "dog")
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SPEAKERS = [f"{n:08x}" for n in range(10)]  # the last is for testing, the one before validates
FRAMES = 1600
NOISE_FRAMES = 200_000


def clip(root: Path, word: str, speaker: str, frames: int = FRAMES) -> Path:
    path = root / word / f"{speaker}_nohash_0.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(frames, 0.1), 16000)
    return path


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    root = tmp_path / "corpora" / "speech_commands_v0.02"
    for word in WORDS:
        for speaker in SPEAKERS:
            clip(root, word, speaker)
    for name, speaker in (("validation", SPEAKERS[-2]), ("testing", SPEAKERS[-1])):
        lines = [f"{word}/{speaker}_nohash_0.wav\n" for word in WORDS]
        (root / f"{name}_list.txt").write_text("".join(lines))
    noise = root / "_background_noise_"
    noise.mkdir()
    for name in ("pink", "tap"):
        soundfile.write(noise / f"{name}.wav", np.zeros(NOISE_FRAMES), 16000)
    (root / "README.md").write_text("")
    return root


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "save"


def prepare(root: Path, save: Path, task: dict[str, Any], **more: Any) -> Manifests:
    return prepared("speech_commands", root, save, **task, **more)


def labels(manifest: Path) -> Counter[str]:
    return Counter(record["label"] for record in read_annotations(manifest).values())


TWO = {"words": ["yes", "no"], "unknown_share": 0.25, "silence_share": 0.5}


@pytest.mark.parametrize("parent", [False, True])
def test_all_words(commands: Path, save: Path, parent: bool) -> None:
    manifests = prepare(commands.parent if parent else commands, save, {})
    assert labels(manifests.train) == dict.fromkeys(WORDS, 8)
    assert labels(manifests.valid) == labels(manifests.test["testing"]) == dict.fromkeys(WORDS, 1)
    row = read_manifest(manifests.test["testing"])[0]
    assert row.id == f"cat/{SPEAKERS[-1]}_nohash_0" and row.spk_id == SPEAKERS[-1]
    assert row.duration == FRAMES / 16000 and row.stop is None


def test_unknown_and_silence_are_drawn_in_their_shares(commands: Path, save: Path) -> None:
    manifests = prepare(commands, save, TWO)
    assert labels(manifests.train) == {"yes": 8, "no": 8, "_unknown_": 4, "_silence_": 8}
    assert labels(manifests.valid) == {"yes": 1, "no": 1, "_unknown_": 1, "_silence_": 1}
    drawn = [
        record["word"]
        for record in read_annotations(manifests.train).values()
        if record["label"] == "_unknown_"
    ]
    assert set(drawn) <= {"cat", "dog"}


def test_what_is_drawn_depends_on_the_seed_alone(commands: Path, tmp_path: Path) -> None:
    first = prepare(commands, tmp_path / "a", TWO).train.read_text()
    assert prepare(commands, tmp_path / "b", TWO).train.read_text() == first
    assert prepare(commands, tmp_path / "c", {**TWO, "draw_seed": 1}).train.read_text() != first


def test_crops_of_noise_last_a_second_and_splits_share_none(commands: Path, save: Path) -> None:
    manifests = prepare(commands, save, {**TWO, "silence_share": 1.0})
    limits = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
    paths = {"train": manifests.train, "valid": manifests.valid, "test": manifests.test["testing"]}
    for name, path in paths.items():
        rows = [row for row in read_manifest(path) if row.id.startswith("_silence_")]
        assert len(rows) == (16 if name == "train" else 2)
        for row in rows:
            assert row.stop is not None and row.stop - row.start == 16000 and row.duration == 1
            low, high = (share * NOISE_FRAMES for share in limits[name])
            assert low <= row.start and row.stop <= high
    assert len({row.start for row in read_manifest(manifests.train) if row.stop}) == 16


def test_few_other_clips_are_all_taken(
    commands: Path, save: Path, caplog: pytest.LogCaptureFixture
) -> None:
    three = {"words": ["yes", "no", "cat"], "unknown_share": 0.9}
    manifests = prepare(commands, save, three)
    assert labels(manifests.train)["_unknown_"] == 8
    assert "training: 8 clips for _unknown_, not 22: all taken" in caplog.text


def test_a_changed_task_or_corpus_is_prepared_again(commands: Path, save: Path) -> None:
    manifests = prepare(commands, save, {})
    before = manifests.train.stat().st_mtime_ns
    prepare(commands, save, {})
    assert manifests.train.stat().st_mtime_ns == before
    assert prepare(commands, save, {}, skip_prep=True) == manifests
    clip(commands, "yes", "abcdef01")
    assert labels(prepare(commands, save, {}).train)["yes"] == 9
    assert labels(prepare(commands, save, TWO).train)["_silence_"] == 9


def test_the_official_test_set(commands: Path, save: Path, tmp_path: Path) -> None:
    official = tmp_path / "test_set"
    for label in ("yes", "no", "_unknown_", "_silence_"):
        clip(official, label, "0123abcd")
    task = {**TWO, "official_test_folder": str(official)}
    manifests = prepare(commands, save, task)
    counts = {"yes": 1, "no": 1, "_unknown_": 1, "_silence_": 1}
    assert labels(manifests.test["testing"]) == counts
    assert read_manifest(manifests.test["testing"])[0].wav.startswith(str(official))
    with pytest.raises(ManifestError, match="--official_test_folder .*must hold the folders"):
        prepare(commands, save, {"official_test_folder": str(official)})


def test_bad_clips_and_lines_are_named_and_counted(commands: Path, save: Path) -> None:
    broken = commands / "yes" / f"{SPEAKERS[0]}_nohash_0.wav"
    broken.write_bytes(b"")
    listed = commands / "validation_list.txt"
    listed.write_text(listed.read_text() + "\nyes/gone_nohash_0.wav\n")
    manifests = prepare(commands, save, {})
    assert labels(manifests.train)["yes"] == 7 and labels(manifests.valid)["yes"] == 1
    (bad,) = BadAudioLog(save / "bad_training.csv").read()
    assert bad.path == str(broken) and "is empty" in bad.reason
    (bad,) = BadAudioLog(save / "bad_validation.csv").read()
    assert f"{listed}:6" in bad.reason and "there is no such clip" in bad.reason
    testing = commands / "testing_list.txt"
    testing.write_text(testing.read_text() + f"yes/{SPEAKERS[-2]}_nohash_0.wav\nno/x.wav\n")
    with pytest.raises(TooManyBadFiles, match="(?s)testing: 2 of 6.*validation_list.txt, too"):
        prepare(commands, save, {})


def test_words_without_clips(commands: Path, save: Path, caplog: pytest.LogCaptureFixture) -> None:
    (commands / "bird").mkdir()
    assert set(labels(prepare(commands, save, {}).train)) == set(WORDS)
    assert "no clip of bird (1 folders)" in caplog.text
    with pytest.raises(ManifestError, match="no clip of bird, only of cat, dog, no, yes"):
        prepare(commands, save, {"words": ["yes", "bird"]})
    with pytest.raises(ManifestError, match=f"no clip of {', '.join(COMMANDS[2:])}"):
        prepare(commands, save, {"words": list(COMMANDS)})
    for name in ("validation", "testing"):
        (commands / f"{name}_list.txt").write_text("")
    everything = "".join(f"no/{speaker}_nohash_0.wav\n" for speaker in SPEAKERS)
    (commands / "testing_list.txt").write_text(everything)
    with pytest.raises(ManifestError, match="all clips of no are in the lists"):
        prepare(commands, save, {})


def test_noise_that_cannot_be_used(commands: Path, save: Path) -> None:
    noise = commands / "_background_noise_"
    soundfile.write(noise / "tap.wav", np.zeros(100_000), 16000)
    with pytest.raises(ManifestError, match=r"tap\.wav: 6\.2 s are too short"):
        prepare(commands, save, TWO)
    soundfile.write(noise / "tap.wav", np.zeros(200_000), 8000)
    with pytest.raises(ManifestError, match=r"silence cannot be made: .*tap\.wav"):
        prepare(commands, save, TWO)
    for file in noise.glob("*.wav"):
        file.unlink()
    with pytest.raises(ManifestError, match="holds no recordings to take silence from"):
        prepare(commands, save, TWO)
    assert labels(prepare(commands, save, {}).train) == dict.fromkeys(WORDS, 8)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"words": "yes"}, "--words 'yes': give a list"),
        ({"words": []}, "give a list, or null"),
        ({"words": ["yes", "yes"]}, "a word is named twice"),
        ({"words": [True, "yes"]}, r"--words \[True, 'yes'\]: .*quotes"),
        ({"words": ["yes"], "unknown_share": 2}, "--unknown_share 2: use a share from 0 to 1"),
        ({"silence_share": -1}, "--silence_share -1: use a share from 0 to 1"),
        ({"unknown_share": 0.1}, "with --words null no word is left to be unknown"),
    ],
)
def test_bad_tasks(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        CommandsTask(**task)


def test_missing_parts(commands: Path, save: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--data_folder .*nowhere: no such folder"):
        prepare(tmp_path / "nowhere", save, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="found no testing_list.txt"):
        prepare(tmp_path / "empty", save, {})
    (commands.parent / "again").mkdir()
    (commands.parent / "again" / "testing_list.txt").write_text("")
    with pytest.raises(ManifestError, match="holds several corpora"):
        prepare(commands.parent, save, {})
    (commands / "validation_list.txt").unlink()
    with pytest.raises(ManifestError, match="validation_list.txt: is missing"):
        prepare(commands, save, {})
