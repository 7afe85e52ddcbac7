"""LibriSpeech preparation: right manifests, resumable, and every kind of bad corpus."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data import preparation
from summarymixing_modules.data.bad_audio import BadAudioLog, TooManyBadFiles
from summarymixing_modules.data.corpora import librispeech
from summarymixing_modules.data.manifest import ManifestError, Manifests, read_manifest
from tests.unit.data.prepared import prepared

TRAIN = "train-clean-100"


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


def prepare(corpus: Path, save: Path, **changes: object) -> Manifests:
    splits = {"train_splits": [TRAIN], "dev_splits": ["dev-clean"], "test_splits": ["test-clean"]}
    return prepared("librispeech", corpus, save, **{**splits, **changes})


def bad_list(save: Path) -> BadAudioLog:
    return BadAudioLog(save / f"bad_{TRAIN}.csv")


def audio_files(corpus: Path, split: str = TRAIN) -> list[Path]:
    return sorted((corpus / "LibriSpeech" / split).glob("*/*/*.flac"))


def transcript_files(corpus: Path, split: str = TRAIN) -> list[Path]:
    return sorted((corpus / "LibriSpeech" / split).glob("*/*/*.trans.txt"))


def test_manifests_say_what_the_corpus_holds(corpus: Path, save: Path) -> None:
    manifests = prepare(corpus, save)
    rows = read_manifest(manifests.train)
    assert [f"{row.id}.flac" for row in rows] == [path.name for path in audio_files(corpus)]
    for row, path in zip(rows, audio_files(corpus), strict=True):
        assert row.wav == f"$data_root/{path.relative_to(corpus)}"
        assert row.duration == soundfile.info(path).duration
        assert row.spk_id == "-".join(row.id.split("-")[:2])
        assert f"{row.id} {row.wrd}" in next(path.parent.glob("*.txt")).read_text().splitlines()
    assert len(read_manifest(manifests.valid)) == 3
    assert list(manifests.test) == ["test-clean"]
    assert len(read_manifest(manifests.test["test-clean"])) == 4
    assert not list(save.glob("bad_*"))


@pytest.mark.parametrize("below", ["", "LibriSpeech"])
def test_data_folder_may_be_the_corpus_or_its_parent(corpus: Path, save: Path, below: str) -> None:
    manifests = prepare(corpus / below, save)
    dataset = DynamicItemDataset.from_csv(
        str(manifests.train), replacements={"data_root": str(corpus / below)}
    )
    dataset.set_output_keys(["wav"])
    assert [Path(item["wav"]) for item in dataset] == audio_files(corpus)


def test_several_splits_are_merged_in_order(corpus: Path, save: Path) -> None:
    manifests = prepare(
        corpus, save, train_splits=["test-clean", TRAIN], dev_splits=["dev-clean"], test_splits=[]
    )
    ids = [row.id for row in read_manifest(manifests.train)]
    assert len(ids) == 16
    assert ids[:4] == [path.stem for path in audio_files(corpus, "test-clean")]
    assert manifests.test == {}


def test_recorded_speech(recorded_librispeech: Path, save: Path, tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    root.mkdir()
    for split in (TRAIN, "dev-clean", "test-clean"):
        (root / split).symlink_to(recorded_librispeech / TRAIN)
    manifests = prepare(root, save, verify="decode", workers=4)
    rows = read_manifest(manifests.train)
    assert len(rows) == 40 and {row.spk_id for row in rows} == {"19-198", "19-227"}
    assert 0.05 < sum(row.duration for row in rows) / 3600 < 0.5
    assert rows[0].id == "19-198-0000"


def test_nothing_is_read_again_when_nothing_changed(
    corpus: Path, save: Path, examined: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(corpus, save)
    content = first.train.read_bytes()
    assert len(examined) == 19
    examined.clear()
    with caplog.at_level("INFO"):
        assert prepare(corpus, save) == first
    assert examined == [] and first.train.read_bytes() == content
    assert "12 utterances" in caplog.text and "as prepared before" in caplog.text


def test_a_stopped_preparation_continues_after_the_finished_splits(
    corpus: Path, save: Path, examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = librispeech.read_split

    def stop_at_dev(folder: Path) -> object:
        if folder.name == "dev-clean":
            raise KeyboardInterrupt
        return original(folder)

    with monkeypatch.context() as patch:
        patch.setattr(librispeech, "read_split", stop_at_dev)
        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, save)
    assert len(examined) == 12 and not (save / "train.csv").exists()
    prepare(corpus, save)
    assert len(examined) == 12 + 3 + 4


def test_ctrl_c_while_files_are_examined_stops_at_once(
    corpus: Path, save: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "check_audio", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, save)
    assert not list(save.glob("*.csv"))


def _add_utterance(corpus: Path) -> None:
    audio, transcript = audio_files(corpus)[0], transcript_files(corpus)[0]
    identifier = f"{transcript.parent.parent.name}-{transcript.parent.name}-0099"
    (audio.parent / f"{identifier}.flac").write_bytes(audio.read_bytes())
    transcript.write_text(transcript.read_text() + f"{identifier} ADDED\n")


def _remove_audio(corpus: Path) -> None:
    audio_files(corpus)[0].unlink()


def _touch_transcript(corpus: Path) -> None:
    os.utime(transcript_files(corpus)[0], ns=(2**61, 2**61))


@pytest.mark.parametrize("change", [_add_utterance, _remove_audio, _touch_transcript])
def test_a_changed_split_is_prepared_again_and_only_that(
    corpus: Path,
    save: Path,
    examined: list[str],
    change: Callable[[Path], None],
) -> None:
    prepare(corpus, save)
    examined.clear()
    change(corpus)
    manifests = prepare(corpus, save)
    expected = sorted(p.stem for p in audio_files(corpus))
    assert [row.id for row in read_manifest(manifests.train)] == expected
    chapters = {path.parent.name for path in transcript_files(corpus)}
    assert {name.split("-")[1] for name in examined} == chapters


def test_changed_settings_or_a_damaged_manifest_prepare_again(
    corpus: Path, save: Path, examined: list[str]
) -> None:
    manifests = prepare(corpus, save)
    examined.clear()
    prepare(corpus, save, verify="decode")
    assert len(examined) == 19
    examined.clear()
    with open(manifests.test["test-clean"], "a") as file:
        file.write("half a li")
    (save / "dev-clean.json").write_text("{")
    prepare(corpus, save, verify="decode")
    assert len(examined) == 3 + 4
    assert len(read_manifest(manifests.test["test-clean"])) == 4


def test_skip_prep(corpus: Path, save: Path, examined: list[str]) -> None:
    with pytest.raises(ManifestError, match=r"train\.csv: no such manifest, so --skip_prep"):
        prepare(corpus, save, skip_prep=True)
    expected = prepare(corpus, save)
    examined.clear()
    assert prepare("/nowhere", save, skip_prep=True) == expected  # type: ignore[arg-type]
    assert examined == []


def _zero_length(path: Path) -> None:
    soundfile.write(path.with_suffix(".wav"), np.zeros(0), 16000)
    path.with_suffix(".wav").rename(path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _stereo(path: Path) -> None:
    soundfile.write(path, np.zeros((1600, 2)), 16000)


def _slow(path: Path) -> None:
    soundfile.write(path, np.zeros(800), 8000)


def _missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_zero_length, "holds no samples"),
        (_empty, "the file is empty"),
        (_stereo, "has 2 channels"),
        (_slow, "is sampled at 8000 Hz"),
        (_missing, "no such audio file"),
    ],
)
def test_one_bad_file_is_left_out_and_two_are_too_many(
    corpus: Path,
    save: Path,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    paths = audio_files(corpus)
    damage(paths[0])
    manifests = prepare(corpus, save)
    assert paths[0].stem not in {row.id for row in read_manifest(manifests.train)}
    listed = bad_list(save).read()
    assert [(file.path, file.id) for file in listed] == [(str(paths[0]), paths[0].stem)]
    assert reason in listed[0].reason
    damage(paths[1])
    (save / f"{TRAIN}.json").unlink()
    with pytest.raises(TooManyBadFiles) as caught:
        prepare(corpus, save)
    assert len(bad_list(save).read()) == 2
    for part in (
        f"{TRAIN}: 2 of 12",
        "1 allowed by --max_bad_audio 0.01",
        reason,
        f"bad_{TRAIN}.csv",
    ):
        assert part in str(caught.value)
    # Allowed, or strict.
    assert len(read_manifest(prepare(corpus, save, max_bad_fraction=0.2).train)) == 10
    with pytest.raises(TooManyBadFiles, match="0 allowed"):
        prepare(corpus, save, max_bad_fraction=0)


def test_truncated_audio_is_found_by_decoding(corpus: Path, save: Path) -> None:
    path = audio_files(corpus)[0]
    path.write_bytes(path.read_bytes()[:-3000])
    assert len(read_manifest(prepare(corpus, save).train)) == 12
    assert len(read_manifest(prepare(corpus, save, verify="decode").train)) == 11


def test_a_repaired_file_comes_back(corpus: Path, save: Path) -> None:
    path = audio_files(corpus)[0]
    good = path.read_bytes()
    _empty(path)
    manifests = prepare(corpus, save)
    assert len(read_manifest(manifests.train)) == 11
    path.write_bytes(good)
    prepare(corpus, save)
    assert len(read_manifest(manifests.train)) == 12
    assert bad_list(save).read() == []


def test_audio_without_a_transcript(corpus: Path, save: Path) -> None:
    audio = audio_files(corpus)[0]
    audio.with_name("stray.flac").write_bytes(audio.read_bytes())
    manifests = prepare(corpus, save)
    assert len(read_manifest(manifests.train)) == 12
    (listed,) = bad_list(save).read()
    assert listed.id == "stray" and "audio without a line in a transcript" in listed.reason


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{prefix}0042", "there are no words after the ID"),
        ("HELLO WORLD", "the ID does not start with '{prefix}'"),
        ("{prefix}0042 COSTS $5", "'\\$' marks variables"),
    ],
)
def test_malformed_transcripts(corpus: Path, save: Path, line: str, problem: str) -> None:
    file = transcript_files(corpus)[0]
    prefix = "-".join(file.parent.parts[-2:]) + "-"
    number = len(file.read_text().splitlines()) + 2
    file.write_text(file.read_text() + "\n" + line.format(prefix=prefix) + "\n")
    expected = rf"{file.name}:{number}: malformed transcript line .*{problem.format(prefix=prefix)}"
    with pytest.raises(ManifestError, match=expected):
        prepare(corpus, save)


def test_an_id_used_twice(corpus: Path, save: Path) -> None:
    file = transcript_files(corpus)[0]
    file.write_text(file.read_text() * 2)
    with pytest.raises(ManifestError, match=r"the ID \S+ is used twice"):
        prepare(corpus, save)


def test_a_transcript_that_is_not_utf8(corpus: Path, save: Path) -> None:
    file = transcript_files(corpus)[0]
    file.write_bytes(file.read_bytes() + b"\xff\xfe")
    with pytest.raises(ManifestError, match=f"{file.name}: is not UTF-8"):
        prepare(corpus, save)


def test_byte_order_marks_and_the_line_ends_of_windows_are_read(corpus: Path, save: Path) -> None:
    expected = list(read_manifest(prepare(corpus, save).train))
    for file in transcript_files(corpus):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert list(read_manifest(prepare(corpus, save).train)) == expected


def test_a_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one(
    corpus: Path, save: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = audio_files(corpus)[0].parent
    original = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == secret:
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ManifestError, match=f"{secret}: may not be listed .*chmod -R u"):
        prepare(corpus, save)


def test_a_name_that_is_not_utf8_is_listed_as_bad(corpus: Path, save: Path) -> None:
    audio = audio_files(corpus)[0]
    audio.with_name(os.fsdecode(b"caf\xe9.flac")).write_bytes(audio.read_bytes())
    for _ in range(2):  # and is not listed anew by the next call
        assert len(read_manifest(prepare(corpus, save).train)) == 12
        assert [file.id for file in bad_list(save).read()] == [r"caf\udce9"]


def test_missing_folders_and_splits(corpus: Path, save: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--data_folder .*nowhere: no such folder"):
        prepare(tmp_path / "nowhere", save)
    (tmp_path / "other").mkdir()
    with pytest.raises(ManifestError, match="--data_folder .*other: found no LibriSpeech split"):
        prepare(tmp_path / "other", save)
    expected = "has no split test-other: it has train-clean-100, dev-clean, test-clean"
    with pytest.raises(ManifestError, match=expected):
        prepare(corpus, save, test_splits=["test-other"])
    with pytest.raises(ManifestError, match="--train_splits: 'train-100' is none of train-clean"):
        prepare(corpus, save, train_splits=["train-100"])
    (corpus / "LibriSpeech" / "dev-other").mkdir()
    with pytest.raises(ManifestError, match="dev-other: no transcript"):
        prepare(corpus, save, dev_splits=["dev-other"])


def test_a_split_of_which_nothing_is_usable(corpus: Path, save: Path) -> None:
    for path in audio_files(corpus, "dev-clean"):
        _empty(path)
    with pytest.raises(ManifestError, match="dev-clean: there is no usable utterance"):
        prepare(corpus, save, max_bad_fraction=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_splits": "train-clean-100"}, r"give a list, \[train-clean-100\]"),
        ({"train_splits": []}, "--train_splits: name at least one"),
        ({"train_splits": [TRAIN, TRAIN]}, "a split is named twice"),
        ({"test_splits": [TRAIN]}, "scores on training data mean nothing"),
        ({"verify": "all"}, "--verify_audio 'all': use one of header, decode"),
        ({"workers": 0}, "--prep_workers 0: use at least 1"),
    ],
)
def test_bad_arguments(
    corpus: Path, save: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        prepare(corpus, save, **arguments)
    assert not save.exists()


def test_the_demo_corpus_is_announced_as_synthetic(
    demo_folder: Path, save: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(demo_folder, save)
    assert "SYNTHETIC demo corpus" in caplog.text
    assert json.loads((save / "dev-clean.json").read_text())["bad"] == []
