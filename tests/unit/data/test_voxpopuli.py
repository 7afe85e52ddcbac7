"""VoxPopuli: lists and cut audio, its copy on Hugging Face, and whole sessions."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest.mock import Mock

import pytest
import soundfile

from summarymixing_modules.data import preparation
from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.corpora.voxpopuli import transcript
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from tests.unit.data.prepared import prepared
from tests.unit.data.talks import COLUMNS, RATE, noise, write_cut, write_sessions

SPLITS = ("train", "dev", "test")
ASKED = {f"{split}_splits": [split] for split in SPLITS} | {"language": "en"}


def name(split: str, number: int) -> str:
    return f"20{10 + SPLITS.index(split)}0118-0900-PLENARY-3-en_2010-09:06:4{number}_5"


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """Two utterances a split; the folder of the lists."""
    folder = tmp_path / "data" / "transcribed_data" / "en"
    for split in SPLITS:
        texts = ["mr president, i'm 7", "we’ve said - it"]
        speeches = {name(split, i): (noise(1.0 + i, i), text) for i, text in enumerate(texts)}
        write_cut(folder, split, speeches)
    return folder


def prepare(tmp_path: Path, **options: object) -> Manifests:
    return prepared("voxpopuli", tmp_path / "data", tmp_path / "save", **ASKED | options)


def test_lists_and_cut_audio(cut: Path, tmp_path: Path) -> None:
    manifests = prepare(tmp_path)
    for split, path in zip(
        SPLITS, (manifests.train, manifests.valid, manifests.test["test"]), strict=True
    ):
        rows = read_manifest(path)
        assert [row.wrd for row in rows] == ["MR PRESIDENT I'M 7", "WE'VE SAID IT"]
        assert [row.id for row in rows] == [name(split, 0), name(split, 1)]
        assert [row.duration for row in rows] == [1.0, 2.0] and not rows.in_parts
        assert rows[0].spk_id == "125"
    assert prepared("voxpopuli", cut, tmp_path / "itself", **ASKED).train.is_file()


def test_the_copy_on_hugging_face(cut: Path, tmp_path: Path) -> None:
    """Audio as WAV in the folders that its archives unpack to."""
    folder = tmp_path / "data" / "data" / "en"
    folder.parent.mkdir()
    cut.rename(folder)
    for split in SPLITS:
        (folder / split).mkdir()
        (folder / split / "part_0.tar.gz").write_bytes(b"packed")
    with pytest.raises(ManifestError, match="en/train: holds no audio: unpack its archives"):
        prepare(tmp_path)
    for number, ogg in enumerate(sorted(folder.rglob("*.ogg"))):
        split = SPLITS[int(ogg.parent.name) - 2010]
        part = folder / split / f"{split}_part_{number % 2}"
        part.mkdir(exist_ok=True)
        soundfile.write(part / f"{ogg.stem}.wav", *soundfile.read(ogg))
        ogg.unlink()
    rows = read_manifest(prepare(tmp_path).train)
    assert [row.duration for row in rows] == [1.0, 2.0]
    assert rows[1].wav.endswith(f"data/en/train/train_part_1/{name('train', 1)}.wav")


def test_sessions_are_read_by_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = []
    for number, split in enumerate(SPLITS):
        session = f"201{number}0118-0900-PLENARY-3"
        rows += [
            f"{session}|en_b_1|Two.|two|7|{split}|male|[(4.0, 5.0), (5.5, 7.1)]",  # ends 0.1 s late
            f'{session}|en_a_0|"One,\nhalf|one"|one|7|{split}|male|[(0.5, 2.0)]',
            f"{session}|en_c_2||  |7|{split}|male|[(2.0, 3.0)]",
            f"{session}|en_d_3|Three.|three|7|unused|male|[(2.0, 3.0)]",
        ]
        write_sessions(tmp_path / "data", {session: noise(7.0)}, rows)
    check = Mock(side_effect=preparation.check_audio)
    monkeypatch.setattr(preparation, "check_audio", check)
    with caplog.at_level(logging.WARNING):
        manifests = prepare(tmp_path)
    found = read_manifest(manifests.train)
    assert [(row.id[-6:], row.wrd, row.start, row.stop) for row in found] == [
        ("en_a_0", "ONE", RATE // 2, 2 * RATE),
        ("en_b_1", "TWO", 4 * RATE, 7 * RATE),
    ]
    assert check.call_count == 3, "each session once"
    assert "without a word: 1 utterances (20100118-0900-PLENARY-3-en_c_2" in caplog.text


def test_empty_texts_are_named_and_left_out(
    cut: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speeches = {name("test", i): (noise(1.0), text) for i, text in enumerate(["", "'", "yes"])}
    write_cut(cut, "test", speeches)
    with caplog.at_level(logging.WARNING):
        manifests = prepare(tmp_path)
    assert [row.wrd for row in read_manifest(manifests.test["test"])] == ["YES"]
    assert f"without a word: 2 utterances ({name('test', 0)}, {name('test', 1)})" in caplog.text


def test_missing_audio_and_malformed_lines(cut: Path, tmp_path: Path) -> None:
    write_cut(cut, "dev", {name("dev", 8): (None, "gone"), name("dev", 9): (noise(1.0), "there")})
    with (cut / "asr_dev.tsv").open("a") as file:
        file.write("20110118-a\tcut short\n")
    with pytest.raises(TooManyBadFiles, match="2 of 3"):
        prepare(tmp_path)
    listed = (tmp_path / "save" / "bad_voxpopuli-en-dev.csv").read_text()
    assert f"{name('dev', 8)}.ogg: no such audio file" in listed
    assert "asr_dev.tsv:4: malformed line (has too few fields)" in listed


def test_what_is_no_corpus_is_told(cut: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"--language de: found neither .*asr_de\.tsv\.gz"):
        prepare(tmp_path, language="de")
    (cut / "asr_train.tsv").write_text(COLUMNS.replace("normalized_text", "text") + "\n")
    with pytest.raises(ManifestError, match="asr_train.tsv: lacks the columns normalized_text"):
        prepare(tmp_path)
    (cut / "asr_train.tsv").write_bytes(COLUMNS.encode() + b"\n\xff")
    with pytest.raises(ManifestError, match="asr_train.tsv: is damaged after line"):
        prepare(tmp_path)
    (cut / "asr_train.tsv").unlink()
    with pytest.raises(ManifestError, match="asr_train.tsv: no such list"):
        prepare(tmp_path)
    for split in ("dev", "test"):
        (cut / f"asr_{split}.tsv").unlink()
    (cut / "0000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match="of the audio in tables such as .*0000.parquet"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("It’s co-operation, Mr. O'Brien!", "en", "IT'S CO OPERATION MR O'BRIEN"),
        ("Žena u Europi tek je jedna.", "hr", "ŽENA U EUROPI TEK JE JEDNA"),
        ("u\u0308ber 3,5 % $", "de", "ÜBER 3 5"),
        (" ' - ", "en", ""),
    ],
)
def test_transcript(text: str, language: str, words: str) -> None:
    assert transcript(text, language) == words
