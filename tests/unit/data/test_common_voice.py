"""Common Voice: lists, sentences and MP3 clips into manifests at 16 kHz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.audio import read_audio
from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.corpora import common_voice
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from summarymixing_modules.data.text.normalisation import normalise_sentence
from tests.unit.data.prepared import prepared

RELEASE = "cv-corpus-11.0-2022-09-21"
HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"


def write_clip(path: Path, seconds: float = 0.6, rate: int = 48000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(rate * seconds)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * time), rate, format="MP3")


def write_list(language: Path, split: str, lines: list[tuple[str, str]]) -> None:
    rows = [f"{'ab' * 64}\t{clip}\t{text}\t2\t0\t\t\t\tcy\t" for clip, text in lines]
    (language / f"{split}.tsv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Two clips a split; the folder of the language."""
    language = tmp_path / "data" / RELEASE / "cy"
    for split in ("train", "dev", "test"):
        names = [f"common_voice_cy_{split}{index}.mp3" for index in range(2)]
        for name in names:
            write_clip(language / "clips" / name)
        write_list(language, split, [(name, 'Mae "ci" ’da fi!') for name in names])
    return language


def prepare(tmp_path: Path, **options: object) -> Manifests:
    own = {"language": "cy", "longest": 10.0, "clips_folder": tmp_path / "clips", **options}
    return prepared("common_voice", tmp_path / "data", tmp_path / "save", **own)


def test_clips_become_16_khz_utterances(release: Path, tmp_path: Path) -> None:
    manifests = prepare(tmp_path)
    rows = read_manifest(manifests.train)
    assert [row.wrd for row in rows] == ["MAE CI 'DA FI"] * 2
    samples_L = read_audio(rows[0].wav)  # insists on 16 kHz, one channel
    assert rows[0].duration == pytest.approx(0.6, abs=0.1) == len(samples_L) / 16000
    power = samples_L.numpy() ** 2
    assert power.mean() == pytest.approx(0.3**2 / 2, rel=0.15)
    assert len(read_manifest(manifests.test["test"])) == 2


def test_nothing_is_converted_twice(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(tmp_path)
    monkeypatch.setattr(common_voice, "read_audio", lambda _: pytest.fail("decoded again"))
    assert prepare(tmp_path) == first
    assert prepare(tmp_path, skip_prep=True) == first
    for stamp in (tmp_path / "save").glob("*.json"):
        stamp.unlink()  # as after a kill: the splits are done again, from the converted clips
    assert read_manifest(prepare(tmp_path).train)


def test_long_clips_are_left_out_of_every_split(release: Path, tmp_path: Path) -> None:
    write_clip(release / "clips" / "common_voice_cy_dev0.mp3", 1.5)
    manifests = prepare(tmp_path, longest=1.0)
    assert [row.id for row in read_manifest(manifests.valid)] == ["common_voice_cy_dev1"]


def test_bad_clips_and_sentences_are_named_and_counted(release: Path, tmp_path: Path) -> None:
    clips = release / "clips"
    (clips / "common_voice_cy_train0.mp3").write_bytes(b"")
    write_list(
        release,
        "train",
        [
            ("common_voice_cy_train0.mp3", "Bore da"),
            ("common_voice_cy_train1.mp3", "Bore da"),
            ("gone.mp3", "Bore da"),
            ("common_voice_cy_test0.mp3", "Am 10 o'r gloch"),
        ],
    )
    with pytest.raises(TooManyBadFiles, match="3 of 4"):
        prepare(tmp_path)
    prepare(tmp_path, max_bad_fraction=0.9)
    listed = (tmp_path / "save" / "bad_cv_cy_train.csv").read_text()
    assert "gone.mp3: no such" in listed and "is empty" in listed and "train.tsv:5" in listed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "xx"}, "no xx/train.tsv in it.*There is cy.*for --language"),
        ({"language": "eu"}, "no eu/train.tsv"),
    ],
)
def test_bad_arguments(
    options: dict[str, object], message: str, release: Path, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=message):
        prepare(tmp_path, **options)


def test_votes_empty_sentences_and_repeated_lines(release: Path, tmp_path: Path) -> None:
    """A line twice counts once; with another sentence, or with none, it cannot be used."""
    name, other = "common_voice_cy_train0.mp3", "common_voice_cy_train1.mp3"
    lines = [(name, "Bore da"), (other, "Nos da"), (name, "Bore da"), (other, "Nos"), ("x.mp3", "")]
    write_list(release, "train", lines)
    file = release / "train.tsv"
    file.write_text(file.read_text().replace("\t2\t0\t", "\t\t\t"), encoding="utf-8")  # no votes
    manifests = prepare(tmp_path, max_bad_fraction=0.5)
    assert [row.wrd for row in read_manifest(manifests.train)] == ["BORE DA", "NOS DA"]
    listed = (tmp_path / "save" / "bad_cv_cy_train.csv").read_text()
    assert "train.tsv:5: has another sentence than" in listed and "no word in the sent" in listed


def test_apostrophes_may_part_words_and_first_releases_name_no_mp3(
    release: Path, tmp_path: Path
) -> None:
    file = release / "train.tsv"
    file.write_text(file.read_text(encoding="utf-8").replace(".mp3", ""), encoding="utf-8")
    rows = read_manifest(prepare(tmp_path, split_apostrophes=True).train)
    assert [row.wrd for row in rows] == ["MAE CI DA FI"] * 2


def test_a_damaged_list_is_told(release: Path, tmp_path: Path) -> None:
    (release / "train.tsv").write_text("client_id\tpath\nx\ty\n")
    with pytest.raises(ManifestError, match="train.tsv: lacks the columns sentence"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("sentence", "language", "words"),
    [
        ("Dw i’n hoffi’r tŷ.", "cy", "DW I'N HOFFI'R TŶ"),
        ("'Dyma' nhw – di-lol; 'r un?", "cy", "DYMA NHW DI LOL 'R UN"),
        ("Señor, zer moduz?", "eu", "SEÑOR ZER MODUZ"),
        ("Café «Orléans»", "eu", "CAFE ORLEANS"),
        ("w\u0302yna", "cy", "ŴYNA"),  # an accent of its own character
    ],
)
def test_sentences(sentence: str, language: str, words: str) -> None:
    assert normalise_sentence(sentence, language) == words


@pytest.mark.parametrize("sentence", ["10 mlynedd", "100%", "привет", "...", "A & B"])
def test_sentences_that_nobody_can_spell_out(sentence: str) -> None:
    with pytest.raises(ValueError, match="not spelt out|no word"):
        normalise_sentence(sentence, "cy")
