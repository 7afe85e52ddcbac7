"""Libri-Light preparation: right manifests, resumable, and every kind of bad corpus."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from summarymixing_modules.data.audio import read_audio
from summarymixing_modules.data.bad_audio import BadAudioLog, TooManyBadFiles
from summarymixing_modules.data.corpora import librilight_parts
from summarymixing_modules.data.dataset import make_datasets
from summarymixing_modules.data.manifest import (
    DATA_ROOT,
    ManifestError,
    Manifests,
    Row,
    read_manifest,
    write_manifest,
)
from summarymixing_modules.errors import InputError
from tests.unit.data.prepared import prepared

RATE = 16000
VOICE = [[0.25, 3.0], [3.5, 5.0], [7.0, 7.5], [8.6, 11.0]]
SPEAKERS = {"small": ("100", "200", "300"), "medium": ("200", "400")}


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(12 * RATE)).astype("float32")


@pytest.fixture(scope="module")
def flac(noise: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, RATE, format="FLAC")
    return buffer.getvalue()


@pytest.fixture
def corpus(tmp_path: Path, flac: bytes) -> Path:
    """Five folders of speakers, each with two recordings of 12 s: the folder above Libri-Light."""
    for split, speakers in SPEAKERS.items():
        for speaker in speakers:
            for name in ("a book/01", "another/02"):
                audio = tmp_path / "Libri-Light" / split / speaker / f"{name}.flac"
                audio.parent.mkdir(parents=True)
                audio.write_bytes(flac)
                metadata = {"speaker": speaker, "snr": 9.1, "voice_activity": VOICE}
                audio.with_suffix(".json").write_text(json.dumps(metadata))
    return tmp_path


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "save"


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The audio files that were opened."""
    names: list[str] = []
    original = librilight_parts.check_audio

    def note(path: Path, sample_rate: int) -> object:
        names.append(f"{path.parts[-3]}/{path.stem}")
        return original(path, sample_rate)

    monkeypatch.setattr(librilight_parts, "check_audio", note)
    return names


def prepare(corpus: Path, save: Path, **changes: Any) -> Manifests:
    arguments = {
        "train_splits": ["small"],
        "avoid_if_shorter_than": 2.0,
        "avoid_if_longer_than": 60.0,
        "max_pause": 1.0,
        "valid_hours": 0.006,
    }
    return prepared("librilight", corpus, save, **{**arguments, **changes})


def file(corpus: Path, suffix: str, speaker: str = "100") -> Path:
    return corpus / "Libri-Light" / "small" / speaker / "a book" / f"01{suffix}"


def test_manifests_say_where_the_voice_is(corpus: Path, save: Path) -> None:
    manifests = prepare(corpus, save)
    train, valid = read_manifest(manifests.train), read_manifest(manifests.valid)
    speaker = train[0].spk_id
    path = f"Libri-Light/small/{speaker}/a book/01.flac"
    # 7.0 to 7.5 s is too short, and far from its neighbours.
    assert train[:2] == [
        Row(f"{path[12:-5]}/4000", 4.75, f"{DATA_ROOT}/{path}", speaker, "", 4000, 80000),
        Row(f"{path[12:-5]}/137600", 2.4, f"{DATA_ROOT}/{path}", speaker, "", 137600, 176000),
    ]
    assert len(train) == 8 and len(valid) == 4 and not (save / "bad_audio.csv").exists()
    speakers = {row.spk_id for row in train}
    assert len(speakers) == 2 and {row.spk_id for row in valid} == {*SPEAKERS["small"]} - speakers


def test_the_dataset_reads_the_utterances(corpus: Path, save: Path, noise: np.ndarray) -> None:
    manifests = prepare(corpus, save)
    bad = save / "bad.csv"
    data = make_datasets(manifests.train, manifests.valid, {}, corpus, None, bad, sorting="random")
    first, second = data.train[0]["sig"], data.train[1]["sig"]
    assert first.shape == (76000,) and second.shape == (38400,)
    torch.testing.assert_close(first, torch.from_numpy(noise[4000:80000]), atol=1e-4, rtol=0)
    torch.testing.assert_close(second, torch.from_numpy(noise[137600:176000]), atol=1e-4, rtol=0)
    assert not bad.exists()


def test_a_speaker_of_two_splits_is_in_one_set(corpus: Path, save: Path) -> None:
    for seed in range(6):
        manifests = prepare(
            corpus, save, train_splits=["small", "medium"], seed=seed, valid_hours=0.01
        )
        train, valid = read_manifest(manifests.train), read_manifest(manifests.valid)
        assert len(train) + len(valid) == 20
        assert {row.spk_id for row in train} & {row.spk_id for row in valid} == set()
        assert 0 < sum(row.duration for row in valid) <= 36
    assert len({row.id for row in (*train, *valid)}) == 20


def test_held_out_speakers_depend_on_the_seed_alone(corpus: Path, save: Path) -> None:
    def held_out(seed: int, **changes: Any) -> set[str]:
        manifests = prepare(corpus, save, seed=seed, **changes)
        return {row.spk_id for row in read_manifest(manifests.valid)}

    first = [held_out(seed) for seed in range(8)]
    again = [held_out(seed, workers=1, max_pause=0.9) for seed in range(8)]
    assert first == again and len(set.union(*first)) > 1


@pytest.mark.parametrize("below", ["", "Libri-Light"])
def test_data_folder_may_be_the_corpus_or_its_parent(corpus: Path, save: Path, below: str) -> None:
    rows = read_manifest(prepare(corpus / below, save).train)
    assert all(Path(row.wav.replace(DATA_ROOT, str(corpus / below))).is_file() for row in rows)


def test_nothing_is_read_again_when_nothing_changed(
    corpus: Path, save: Path, examined: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(corpus, save)
    content = first.train.read_bytes()
    assert len(examined) == 6
    examined.clear()
    with caplog.at_level("INFO"):
        assert prepare(corpus, save) == first
    assert examined == [] and first.train.read_bytes() == content
    assert "6 recordings of 3 speakers: 8 utterances, 0.01 h" in caplog.text
    assert "6, 0.00 h, too short" in caplog.text and "as prepared before" in caplog.text


def test_a_stopped_preparation_goes_on_behind_the_finished_speakers(
    corpus: Path, save: Path, examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = librilight_parts.read_voice_activity

    def stop_at_the_last(audio: Path, frames: int, sample_rate: int) -> Any:
        if audio.parts[-3] == "300":
            raise KeyboardInterrupt
        return original(audio, frames, sample_rate)

    monkeypatch.setattr(librilight_parts, "read_voice_activity", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, save, workers=1)
    assert not (save / "train.csv").exists()
    monkeypatch.setattr(librilight_parts, "read_voice_activity", original)
    examined.clear()
    manifests = prepare(corpus, save)
    assert examined == ["300/01", "300/02"]
    assert manifests.train.read_bytes() == prepare(corpus, save.parent / "new").train.read_bytes()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"avoid_if_shorter_than": 2.5}, 6),
        ({"avoid_if_longer_than": 4.0}, 6),
        ({"max_pause": 0.2}, 6),
        ({"verify": "decode"}, 6),
        ({"train_splits": ["small", "medium"], "valid_hours": 0.01}, 4),
        ({"valid_hours": 0.005}, 0),
        ({"max_bad_fraction": 0.5}, 0),
    ],
)
def test_what_settings_change_is_done_again(
    corpus: Path, save: Path, examined: list[str], changes: dict[str, Any], expected: int
) -> None:
    prepare(corpus, save)
    examined.clear()
    manifests = prepare(corpus, save, **changes)
    assert len(examined) == expected
    new = prepare(corpus, save.parent / "new", **changes)
    assert manifests.train.read_bytes() == new.train.read_bytes()
    assert manifests.valid.read_bytes() == new.valid.read_bytes()


def test_a_changed_file_is_noticed(corpus: Path, save: Path, examined: list[str]) -> None:
    prepare(corpus, save)
    examined.clear()
    for path in (file(corpus, ".json", "100"), file(corpus, ".flac", "200")):
        os.utime(path, ns=(1, 1))
    prepare(corpus, save)
    assert sorted(examined) == ["100/01", "100/02", "200/01", "200/02"]
    examined.clear()
    (save / "train.csv").write_text("half a file")
    manifests = prepare(corpus, save)
    assert examined == [] and len(read_manifest(manifests.train)) == 8
    (save / "librilight" / "small" / "300.json").write_text("{broken")
    (save / "valid.csv").unlink()
    prepare(corpus, save)
    assert examined == ["300/01", "300/02"]


def without(path: Path) -> None:
    path.unlink()


def metadata(content: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(content))


def voice(*segments: object) -> Callable[[Path], object]:
    return metadata({"voice_activity": list(segments)})


@pytest.mark.parametrize(
    ("suffix", "damage", "told"),
    [
        (".json", without, "01.json: missing, so nobody knows where 01.flac has voice"),
        (".flac", without, "there is no 01.flac beside it"),
        (".json", lambda path: path.write_text("{"), "no readable JSON"),
        (".json", metadata([1]), "holds no list 'voice_activity'"),
        (".json", metadata({"snr": 3}), "holds no list 'voice_activity'"),
        (".json", voice([0, 5], [4, 9]), r"\[4, 9\], which starts before 5 s"),
        (".json", voice([5, 5]), "which ends before it starts"),
        (".json", voice([5]), r"\[5\], not a pair"),
        (".json", voice(["0", "5"]), "not two numbers of seconds"),
        (".json", voice([0, 12.6]), r"12.6\], but the audio lasts 12.00 s"),
        (".flac", lambda path: path.write_bytes(b"fLaC"), "cannot be read as audio"),
        (".flac", lambda path: soundfile.write(path, np.zeros(99), 8000), "sampled at 8000 Hz"),
    ],
)
def test_an_unusable_recording_is_named_and_left_out(
    corpus: Path, save: Path, suffix: str, damage: Callable[[Path], Any], told: str
) -> None:
    path = file(corpus, suffix)
    intact = path.read_bytes()
    damage(path)
    manifests = prepare(corpus, save)
    rows = [*read_manifest(manifests.train), *read_manifest(manifests.valid)]
    assert len(rows) == 10 and "small/100/a book/01/4000" not in {row.id for row in rows}
    (bad,) = BadAudioLog(save / "bad_audio.csv").read()
    assert bad.id == "01" and "small/100/a book" in bad.path
    with pytest.raises(TooManyBadFiles, match=rf"(?s)1 of 6 recordings are unusable.*{told}"):
        prepare(corpus, save, max_bad_fraction=0)
    path.write_bytes(intact)
    manifests = prepare(corpus, save, max_bad_fraction=0)
    assert (
        len(read_manifest(manifests.train)) == 8
        and BadAudioLog(save / "bad_audio.csv").read() == []
    )


def test_voice_that_hangs_over_the_end_is_cut_there(corpus: Path, save: Path) -> None:
    for speaker in SPEAKERS["small"]:
        voice([0.0, 5.0], [8.5, 12.4], [12.41, 12.45])(file(corpus, ".json", speaker))
    rows = read_manifest(prepare(corpus, save).train)
    assert [row.stop for row in rows if row.start == 8.5 * RATE] == [12 * RATE] * 2


def test_decoding_finds_what_the_header_hides(corpus: Path, save: Path) -> None:
    path = file(corpus, ".flac")
    path.write_bytes(path.read_bytes()[:200_000])
    prepare(corpus, save)
    assert not (save / "bad_audio.csv").exists()
    prepare(corpus, save, verify="decode")
    (bad,) = BadAudioLog(save / "bad_audio.csv").read()
    assert bad.path == str(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train_splits": "small"}, r"--train_splits 'small': give a list, \[small\]"),
        ({"train_splits": []}, "--train_splits: name at least one of small, medium, large"),
        ({"train_splits": ["small", "small"]}, "a split is named twice"),
        ({"train_splits": ["huge"]}, "--train_splits: 'huge' is none of small"),
        ({"train_splits": ["large"]}, "has no split large: it has small, medium"),
        ({"valid_hours": 0}, "--valid_hours 0: use hours above 0"),
        ({"valid_hours": 0.001}, r"--valid_hours 0.001: nobody .* 3 speaker.s. have 0.0040 h"),
        ({"avoid_if_shorter_than": 8.0}, "no recording has an utterance of the allowed length"),
        ({"verify": "ear"}, "--verify_audio 'ear'"),
        ({"workers": 0}, "--prep_workers 0"),
        ({"skip_prep": True}, "train.csv: no such manifest, so --skip_prep"),
    ],
)
def test_bad_settings_are_told(
    corpus: Path, save: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        prepare(corpus, save, **changes)
    assert not (save / "train.csv").exists()


def test_a_folder_without_the_corpus(tmp_path: Path, save: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(ManifestError, match="found no Libri-Light split"):
            prepare(folder, save)
    (tmp_path / "small").mkdir()
    with pytest.raises(ManifestError, match="no speaker's folder in it"):
        prepare(tmp_path, save)


def test_a_manifest_with_parts_of_files(tmp_path: Path) -> None:
    whole, part = Row("a", 1.0, "a.flac", "s", ""), Row("b", 2.0, "a.flac", "s", "", 16000, 48000)
    path = tmp_path / "a.csv"
    write_manifest(path, [whole, part])
    assert list(read_manifest(path)) == [whole, part]
    assert path.read_text().splitlines()[0] == "ID,duration,wav,spk_id,wrd,start,stop"
    path.write_text(path.read_text().replace("48000", "-1"))
    with pytest.raises(ManifestError, match=r"a.csv:3: the stop '-1' is not a number of samples"):
        read_manifest(path)


def test_recorded_speech(save: Path, tmp_path: Path) -> None:
    """Voice activity of a real recording, by energy, as the corpus has it by a detector."""
    data = os.environ.get("SUMMARYMIXING_SPEECH_DATA")
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = (Path(data) if data else default) / "libri" / "LibriSpeech"
    if not folder.is_dir():
        pytest.skip(f"no recorded speech in {folder} (set SUMMARYMIXING_SPEECH_DATA)")
    for speaker, chapter in (("19", "198"), ("19-b", "227")):
        clips = sorted(folder.glob(f"*/19/{chapter}/*.flac"))[:6]
        signal = np.concatenate([read_audio(clip).numpy() for clip in clips])
        loud = np.abs(signal[: len(signal) // 800 * 800]).reshape(-1, 800).max(1) > 0.02
        edges = np.flatnonzero(np.diff(np.r_[0, loud, 0])).reshape(-1, 2) * 0.05
        path = tmp_path / "small" / speaker / "book" / "file.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, signal, RATE)
        metadata({"voice_activity": edges.round(3).tolist()})(path.with_suffix(".json"))
    manifests = prepare(tmp_path, save, verify="decode", avoid_if_longer_than=20.0, valid_hours=1)
    rows = read_manifest(manifests.train)
    assert len(rows) >= 2 and all(2 <= row.duration <= 20 for row in rows)
