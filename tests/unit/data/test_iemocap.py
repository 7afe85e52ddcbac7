"""IEMOCAP: four emotions, ten folds that share no speaker, and what is wrong with a corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.corpora.iemocap import (
    FOLDS,
    SPEAKERS,
    speakers_of_fold,
)
from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from summarymixing_modules.data.preparation import left_out
from tests.unit.data.prepared import prepared

EMOTIONS = ("neu", "hap", "exc", "sad", "ang", "fru", "xxx")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Every speaker once with every label."""
    root = tmp_path / "data" / "IEMOCAP_full_release"
    silence = np.zeros(1600, dtype=np.float32)
    for speaker in SPEAKERS:
        session = root / f"Session{int(speaker[3:5])}"
        dialog = f"{speaker}_script01_1"  # the session's woman and man both speak in it
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for index, emotion in enumerate(EMOTIONS):
            turn = f"{dialog}_{speaker[-1]}{index:03d}"
            lines += [f"[{index}.0000 - {index}.5000]\t{turn}\t{emotion}\t[2.5, 2.5, 2.5]"]
            lines += ["C-E2:\tNeutral;\t()", ""]
            wav = session / "sentences" / "wav" / dialog / f"{turn}.wav"
            wav.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wav, silence, 16000)
        lists = session / "dialog" / "EmoEvaluation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{dialog}.txt").write_text("\n".join(lines) + "\n")
        (lists / f"._{dialog}.txt").write_bytes(b"\x00\xff")  # the release has such files
    return root


def prepare(tmp_path: Path, fold: int = 1, **options: object) -> Manifests:
    return prepared("iemocap", tmp_path / "data", tmp_path / "save", fold=fold, **options)


def test_no_fold_shares_a_speaker(release: Path, tmp_path: Path) -> None:
    tested: list[str] = []
    for fold in FOLDS:
        manifests = prepare(tmp_path, fold)
        parts = (manifests.train, manifests.valid, manifests.test["test"])
        train, valid, test = ({row.spk_id for row in read_manifest(path)} for path in parts)
        assert len(train) == 8 and len(valid) == len(test) == 1
        assert not (train & valid or train & test or valid & test)
        assert {s[:-1] for s in valid} == {s[:-1] for s in test}  # the partner of the session
        assert (sorted(train), sorted(valid), sorted(test)) == tuple(
            sorted(part) for part in speakers_of_fold(fold)
        )
        tested += test
    assert sorted(tested) == sorted(SPEAKERS)


def test_four_classes_and_excitement_is_happiness(release: Path, tmp_path: Path) -> None:
    annotations = read_annotations(prepare(tmp_path).train)
    emotions = [annotation["emotion"] for annotation in annotations.values()]
    assert sorted(emotions) == sorted(["neutral", "happy", "happy", "sad", "angry"] * 8)
    assert annotations["Ses02F_script01_1_F002"]["emotion"] == "happy"


def test_bad_turns_are_named(release: Path, tmp_path: Path) -> None:
    folder = release / "Session1" / "sentences" / "wav" / "Ses01F_script01_1"
    (folder / "Ses01F_script01_1_F000.wav").unlink()
    (folder / "Ses01F_script01_1_F001.wav").write_bytes(b"RIFF")
    emotions = release / "Session2" / "dialog" / "EmoEvaluation" / "Ses02F_script01_1.txt"
    emotions.write_text(emotions.read_text().replace("\tsad\t", "\tglad\t"))
    with pytest.raises(TooManyBadFiles, match="3 of 50"):
        prepare(tmp_path)
    with pytest.raises(TooManyBadFiles, match="fold1_test: 2 of 5 .*--test_max_bad_audio"):
        prepare(tmp_path, max_bad_fraction=0.1)
    assert not left_out(prepare(tmp_path, 2, max_bad_fraction=0.1).test["test"])
    listed = (tmp_path / "save" / "bad_iemocap.csv").read_text()
    assert "F000.wav: no such audio file" in listed and "F001.wav: cannot be read" in listed
    assert "Ses02F_script01_1.txt:12: 'glad' is no emotion" in listed


def test_an_empty_class_is_named(release: Path, tmp_path: Path) -> None:
    for file in release.glob("Session*/dialog/EmoEvaluation/Ses*.txt"):
        file.write_text(file.read_text().replace("\tang\t", "\txxx\t"))
    with pytest.raises(ManifestError, match="--fold 1 .* is angry"):
        prepare(tmp_path)


def test_a_missing_session_or_speaker_is_named(release: Path, tmp_path: Path) -> None:
    (release / "Session3").rename(release / "Session9")
    with pytest.raises(ManifestError, match="lacks Session3"):
        prepare(tmp_path)
    (release / "Session9").rename(release / "Session3")
    (release / "Session3" / "dialog" / "EmoEvaluation" / "Ses03M_script01_1.txt").unlink()
    with pytest.raises(ManifestError, match="--fold 1 needs Ses03M"):
        prepare(tmp_path)
    with pytest.raises(ManifestError, match="--fold 11: use 1 to 10"):
        prepare(tmp_path, 11)
    with pytest.raises(ManifestError, match="found no Session1"):
        prepared("iemocap", tmp_path, tmp_path / "save", fold=1)


def test_kept_until_something_changes(
    release: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tmp_path)
    with caplog.at_level("INFO"):
        prepare(tmp_path, 2)
    assert "as prepared before" in caplog.text
    new = release / "Session1" / "sentences" / "wav" / "Ses01F_script01_1"
    (new / "Ses01F_script01_1_F000.wav").unlink()
    assert len(read_manifest(prepare(tmp_path, 1, test_max_bad_fraction=0.2).test["test"])) == 4
