"""VoxCeleb1: no speaker of a trial is trained on, no video is in two sets, bad trials are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.corpora.voxceleb import (
    read_trials,
)
from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from tests.unit.data.prepared import prepared

TRAINED, TESTED = ("id10001", "id10002", "id10003"), ("id10270", "id10271")


def write_speakers(tree: Path, speakers: tuple[str, ...]) -> None:
    for speaker in speakers:
        for video in ("aaa", "bbb", "ccc"):
            for index in (1, 2):
                path = tree / speaker / video / f"{index:05d}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, np.zeros(1600, dtype=np.float32), 16000)


def write_trials(root: Path, lines: list[str] | None = None) -> None:
    one, two = (f"{speaker}/aaa/00001.wav" for speaker in TESTED)
    default = [f"1 {one} id10270/bbb/00001.wav", f"0 {one} {two}"]
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "veri_test.txt").write_text("\n".join(lines or default) + "\n")


@pytest.fixture(params=["one tree", "two trees"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / "voxceleb1"
    one = request.param == "one tree"
    write_speakers(root / ("wav" if one else "dev/wav"), TRAINED)
    write_speakers(root / ("wav" if one else "test/wav"), TESTED)
    write_trials(root)
    return root


def prepare(corpus: Path, **options: object) -> Manifests:
    return prepared("voxceleb", corpus, corpus.parent / "save", **options)


def test_nobody_in_a_trial_is_trained_on(corpus: Path) -> None:
    manifests = prepare(corpus)
    train, valid = read_manifest(manifests.train), read_manifest(manifests.valid)
    assert {row.spk_id for row in train} == {row.spk_id for row in valid} == set(TRAINED)
    trials = read_trials(manifests.trials)
    spoken = {speaker for trial in trials for speaker in trial.speakers}
    assert spoken == set(TESTED) and not spoken & {row.spk_id for row in (*train, *valid)}
    assert [trial.same for trial in trials] == [True, False]
    assert len(read_manifest(manifests.test["trials"])) == 3  # each utterance once
    assert read_annotations(manifests.train)[train[0].id] == {"speaker": train[0].spk_id}


def test_no_video_is_in_both_sets_and_the_seed_decides(corpus: Path) -> None:
    def videos(path: Path) -> set[str]:
        return {row.id.rpartition("/")[0] for row in read_manifest(path)}

    manifests = prepare(corpus)
    train, valid = videos(manifests.train), videos(manifests.valid)
    assert not train & valid and len(train) == 6 and len(valid) == 3
    seen = {frozenset(videos(prepare(corpus, seed=seed).valid)) for seed in range(6)}
    assert len(seen) > 1
    assert videos(prepare(corpus).valid) == valid


def test_trials_without_recording_are_left_out(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["1 id10270/aaa/00001.wav id10270/ccc/00001.wav"]
    lines += ["0 id10270/aaa/00001.wav id10271/aaa/00001.wav"]
    lines += ["1 id10270/aaa/00001.wav id10270/aaa/09999.wav"]
    write_trials(corpus, lines)
    with pytest.raises(TooManyBadFiles, match="1 of 4 .*0 allowed by --test_max_bad_audio"):
        prepare(corpus)
    manifests = prepare(corpus, test_max_bad_fraction=0.1)
    assert "1 of 3 trials left out" in caplog.text
    assert len(read_trials(manifests.trials)) == 2
    listed = (corpus.parent / "save" / "bad_voxceleb_trials.csv").read_text()
    assert "09999.wav: no such audio file" in listed


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 id10270/aaa/00001.wav"], "veri_test.txt:1: malformed"),
        (["01 id10270/aaa/00001.wav id10270/bbb/00001.wav"], "malformed"),
        (["1 id10270/aaa/00001.wav id10271/bbb/00001.wav"], "label 1 contradicts"),
        (["1 id10270/aaa/00001.wav id10270/bbb/00001.wav"], "none of two"),
    ],
)
def test_bad_trials_are_told(lines: list[str], message: str, corpus: Path) -> None:
    write_trials(corpus, lines)
    with pytest.raises(ManifestError, match=message):
        prepare(corpus)


def test_a_corpus_without_trials_or_training_speakers_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="found neither wav"):
        prepare(tmp_path)
    root = tmp_path / "voxceleb1"
    write_speakers(root / "wav", TESTED)
    with pytest.raises(ManifestError, match="veri_test.txt: no such list of trials"):
        prepare(root)
    write_trials(root)
    with pytest.raises(ManifestError, match="none is left to train on"):
        prepare(root)
    with pytest.raises(ManifestError, match="--valid_share 1"):
        prepare(root, valid_share=1)
