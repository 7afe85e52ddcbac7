"""TED-LIUM 2: segments of talks, with the oddities of its public files."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data import preparation
from summarymixing_modules.data.audio import read_audio
from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.corpora import corpus_spec
from summarymixing_modules.data.corpora.tedlium2 import transcript
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from tests.unit.data.prepared import prepared
from tests.unit.data.talks import RATE, noise, write_talk

SPLITS = {"train_splits": ["train"], "dev_splits": ["dev"], "test_splits": ["test"]}
LABEL = "<o,f0,female>"


@pytest.fixture
def tedlium(tmp_path: Path) -> Path:
    """A talk a split, 10 s long."""
    root = tmp_path / "data" / "TEDLIUM_release2"
    for seed, split in enumerate(("train", "dev", "test")):
        talk = f"Talker_{split}_2010"
        lines = [
            ";; a comment",
            f"{talk} 1 inter_segment_gap 0 1.00 {LABEL} ",
            f"{talk} 1 {talk} 1.00 3.505 {LABEL} it 's <unk> {{NOISE}} what i said(2) ({talk}-1)",
            f"{talk} 1 other 3.00 5.00 {LABEL} someone else <sil> don 't get 'em",  # overlaps
            f"{talk} 1 {talk} 5.0 6.0 <F0_M> ignore_time_segment_in_scoring",
            f"{talk} 1 {talk} 6.0 7.0 {LABEL} <unk> {{SMACK}}",
            "",
            f"{talk} 1 {talk} 8.0 10.3 {LABEL} thank you",  # ends 0.3 s after the talk
        ]
        write_talk(root, split, talk, noise(10.0, seed), lines)
    return root


def prepare(tmp_path: Path, **options: object) -> Manifests:
    return prepared("tedlium2", tmp_path / "data", tmp_path / "save", **SPLITS | options)


def test_segments_become_utterances(
    tedlium: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        manifests = prepare(tmp_path)
    for path in (manifests.train, manifests.valid, manifests.test["test"]):
        rows = read_manifest(path)
        said = [(row.wrd, row.start, row.stop) for row in rows]
        assert said == [
            ("IT'S WHAT I SAID", 16000, 56080),
            ("SOMEONE ELSE DON'T GET 'EM", 48000, 80000),
            ("THANK YOU", 128000, 160000),  # cut at the end
        ]
        assert [row.duration for row in rows] == pytest.approx([2.505, 2.0, 2.0])
    assert rows[0].id == "Talker_test_2010-0000100-0000350"
    assert [row.spk_id for row in rows] == ["Talker_test_2010", "other", "Talker_test_2010"]
    told = "train: segments left out: 1 between talkers, 1 not to be scored, 1 without words"
    assert told in caplog.text
    audio = tedlium / "test" / "sph" / "Talker_test_2010.sph"
    whole, _ = soundfile.read(audio, dtype="float32")
    part_L = read_audio(audio, start=rows[1].start, stop=rows[1].stop)
    assert np.array_equal(part_L.numpy(), whole[48000:80000])


def test_a_segment_far_beyond_the_end_is_unusable(tedlium: Path, tmp_path: Path) -> None:
    stm = tedlium / "test" / "stm" / "Talker_test_2010.stm"
    stm.write_text(stm.read_text().replace("10.3", "10.6"))
    with pytest.raises(TooManyBadFiles, match="1 of 3"):
        prepare(tmp_path)
    assert "128000 to 169600" in (tmp_path / "save" / "bad_tedlium2-test.csv").read_text()


def test_a_talk_is_opened_once_for_all_its_segments(
    tedlium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Mock(side_effect=preparation.check_audio)
    monkeypatch.setattr(preparation, "check_audio", check)
    prepare(tmp_path)
    assert check.call_count == 3
    prepare(tmp_path)  # nothing has changed
    assert check.call_count == 3


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's count of bytes")
def test_only_the_segment_of_a_long_talk_is_read(tmp_path: Path) -> None:
    """Bytes that the process reads, of an hour of which ten seconds at the end are wanted."""
    samples = 3600 * RATE
    header = (
        f"NIST_1A\n   1024\nchannel_count -i 1\nsample_rate -i {RATE}\nsample_n_bytes -i 2\n"
        "sample_byte_format -s2 01\nsample_sig_bits -i 16\nsample_coding -s3 pcm\n"
        f"sample_count -i {samples}\nend_head\n"
    )
    hour = tmp_path / "Hour.sph"
    hour.write_bytes(header.ljust(1024).encode())
    os.truncate(hour, 1024 + 2 * samples)
    before = bytes_read()
    samples_L = read_audio(hour, start=3580 * RATE, stop=3590 * RATE)
    assert len(samples_L) == 10 * RATE
    assert bytes_read() - before < 2 * len(samples_L) + 100_000  # of 115 million


def bytes_read() -> int:
    (line,) = [s for s in Path("/proc/self/io").read_text().splitlines() if s.startswith("rchar")]
    return int(line.split()[1])


def test_layouts(tedlium: Path, tmp_path: Path) -> None:
    """The folder itself; and release 3, which has the same splits in ``legacy``."""
    expected = read_manifest(prepare(tmp_path).train)[0]
    itself = prepared("tedlium2", tedlium, tmp_path / "itself", **SPLITS)
    assert read_manifest(itself.train)[0].wav == "$data_root/train/sph/Talker_train_2010.sph"
    shutil.move(tedlium, tmp_path / "data" / "TEDLIUM_release-3" / "legacy")
    again = read_manifest(prepare(tmp_path).train)[0]
    assert again.id == expected.id and "/legacy/" in again.wav


def test_what_is_missing_is_told(tedlium: Path, tmp_path: Path) -> None:
    (tedlium / "train" / "stm" / "Talker_train_2010.stm").rename(tedlium / "gone.stm")
    write_talk(tedlium, "train", "Silent", None, [f"Silent 1 Silent 0 2 {LABEL} gone"])
    with pytest.raises(TooManyBadFiles):
        prepare(tmp_path)
    listed = (tmp_path / "save" / "bad_tedlium2-train.csv").read_text()
    assert "Silent.sph: no such audio file" in listed
    assert "Talker_train_2010.sph: there is no segment for it" in listed
    shutil.rmtree(tedlium / "train" / "sph")
    with pytest.raises(ManifestError, match="train/sph: no such folder"):
        prepare(tmp_path)
    shutil.rmtree(tedlium)
    with pytest.raises(ManifestError, match="found no train/stm.*TEDLIUM_release2"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Talker_train_2010 1 me 1.0", r"2010.stm:\d+: malformed segment"),
        ("Talker_train_2010 1 me one 2.0 words", "with times in seconds"),
        ("Talker_train_2010 1 me nan 2.0 words", "with times in seconds"),
        ("Another_2010 1 me 1.0 2.0 words", "is a segment of Another_2010"),
    ],
)
def test_malformed_segments(line: str, message: str, tedlium: Path, tmp_path: Path) -> None:
    with (tedlium / "train" / "stm" / "Talker_train_2010.stm").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ManifestError, match=message):
        prepare(tmp_path)


def test_transcripts_need_no_audio(tedlium: Path, tmp_path: Path) -> None:
    for audio in tedlium.rglob("*.sph"):
        audio.unlink()
    transcripts = corpus_spec("tedlium2").transcripts
    assert transcripts is not None
    texts = transcripts(tmp_path / "data", ["dev", "test"])
    assert texts == ["IT'S WHAT I SAID", "SOMEONE ELSE DON'T GET 'EM", "THANK YOU"] * 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("{COUGH} but <sil> i 'm so {COUGH} unfit for(2) this", "BUT I'M SO UNFIT FOR THIS"),
        ("we {NOISE} 're [MUSIC] they 'd <unk> we 'll i 've", "WE'RE THEY'D WE'LL I'VE"),
        ("rock 'n' roll 'til 'dawn", "ROCK 'N' ROLL 'TIL 'DAWN"),
        ("<NA>", ""),
    ],
)
def test_transcript(words: str, expected: str) -> None:
    assert transcript(words) == expected
