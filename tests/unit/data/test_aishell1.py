"""AISHELL-1: its transcript and its folders, with their oddities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.corpora import corpus_spec
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from tests.unit.data.prepared import prepared

SPLITS = {"train_splits": ["train"], "dev_splits": ["dev"], "test_splits": ["test"]}


@pytest.fixture
def aishell(tmp_path: Path) -> Path:
    """Two speakers a split, two recordings each, all with transcripts."""
    root, lines = tmp_path / "data" / "data_aishell", []
    draw = np.random.default_rng(0)
    for number, split in enumerate(("train", "dev", "test")):
        for speaker in (f"S000{number}", f"S010{number}"):
            folder = root / "wav" / split / speaker
            folder.mkdir(parents=True)
            for place in (1, 2):
                name = f"BAC009{speaker}W012{place}"
                soundfile.write(folder / f"{name}.wav", draw.standard_normal(8000) / 9, 16000)
                lines.append(f"{name} 而 对 楼市  成交 b {place * '大'}")
    (root / "transcript").mkdir()
    text = "\n".join([*lines, ""])
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text(text, encoding="utf-8")
    return root


def prepare(tmp_path: Path, **options: object) -> Manifests:
    return prepared("aishell1", tmp_path / "data", tmp_path / "save", **SPLITS | options)


def test_characters_without_spaces(aishell: Path, tmp_path: Path) -> None:
    manifests = prepare(tmp_path)
    rows = read_manifest(manifests.train)
    assert [row.wrd for row in rows] == ["而对楼市成交B大", "而对楼市成交B大大"] * 2
    assert rows[0].spk_id == "S0000" and rows[0].duration == 0.5
    assert len(read_manifest(manifests.test["test"])) == 4
    spec = corpus_spec("aishell1")
    assert spec.error_rate == "CER" and corpus_spec("librispeech").error_rate == "WER"
    assert spec.transcripts is not None
    assert spec.transcripts(aishell, ["dev", "test"])[0] == "而对楼市成交B大"


def test_archives_that_are_not_unpacked(aishell: Path, tmp_path: Path) -> None:
    for folder in (aishell / "wav" / "dev").iterdir():
        for audio in folder.iterdir():
            audio.unlink()
    with pytest.raises(ManifestError, match="dev: holds no recordings: unpack the corpus again"):
        prepare(tmp_path)
    (aishell / "wav" / "S0001.tar.gz").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"unpack its archives \(cd .*wav; for a in"):
        prepare(tmp_path)


def test_speakers_that_are_missing(aishell: Path, tmp_path: Path) -> None:
    """One of two is not there: not unpacked, or lost."""
    folder = aishell / "wav" / "dev" / "S0101"
    folder.rename(tmp_path / "aside")
    with pytest.raises(ManifestError, match=r"no folder in .*\(S0101\): unpack the corpus again"):
        prepare(tmp_path)
    (aishell / "wav" / "S0101.tar.gz").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"\(S0101\): unpack its archives \(cd .*wav; for a"):
        prepare(tmp_path)
    (tmp_path / "aside").rename(folder)
    prepare(tmp_path)  # archives may be kept


def test_what_lacks_its_recording_or_transcript_is_listed(aishell: Path, tmp_path: Path) -> None:
    file = aishell / "transcript" / "aishell_transcript_v0.8.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[1:]), encoding="utf-8")  # of the training set
    manifests = prepare(tmp_path)  # one may always be
    assert len(read_manifest(manifests.train)) == 3
    assert "a recording without a line in" in (tmp_path / "save/bad_aishell1-train.csv").read_text()
    (aishell / "wav/test/S0002/BAC009S0002W0121.wav").unlink()
    with pytest.raises(TooManyBadFiles, match="test: 1 of 4"):  # a test set is whole
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [("BAC009S0000W0121 再", "occurs twice"), ("BAC009S0000W0129", "has no words")],
)
def test_malformed_transcripts(aishell: Path, tmp_path: Path, line: str, told: str) -> None:
    file = aishell / "transcript" / "aishell_transcript_v0.8.txt"
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=f"v0.8.txt:13: .*{told}"):
        prepare(tmp_path)


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"found no transcript/aishell.*openslr.org/33"):
        prepare(tmp_path)
