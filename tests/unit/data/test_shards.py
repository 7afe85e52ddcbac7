"""Shards: what is in them, what other tools read, and what happens to damaged and half ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.audio import AudioError, read_audio
from summarymixing_modules.data.bad_audio import TooManyBadFiles
from summarymixing_modules.data.labelled import read_annotations, write_annotations
from summarymixing_modules.data.manifest import (
    DATA_ROOT,
    Manifests,
    Row,
    read_manifest,
    write_manifest,
)
from summarymixing_modules.data.preparation import left_out
from summarymixing_modules.data.shards.folder import ShardError, ShardFolder
from summarymixing_modules.data.shards.members import Member
from summarymixing_modules.data.shards.plan import Layout
from summarymixing_modules.data.shards.tar import ShardWriter, encode, member_name
from summarymixing_modules.data.shards.writing import ShardWriting

Write = Callable[..., ShardFolder]


def sound(path: Path, frames: int, channels: int = 1, rate: int = 16000, **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(frames)
    soundfile.write(path, 0.1 * draw.standard_normal((frames, channels)), rate, **how)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes 12 + 2 + 2 utterances with labels and trials as shards; some are parts of a file."""
    root, manifests = tmp_path / "corpus", {}
    sound(root / "long.wav", 40000, subtype="PCM_24")
    for name, count in (("train", 12), ("valid", 2), ("trials", 2)):
        rows = []
        for number in range(count):
            file = f"{name}/a.{number}.wav"
            sound(root / file, 4000 + 100 * number)
            row = Row(f"{name}/a.{number}.wav", 0.25, f"{DATA_ROOT}/{file}", "s", f"TEXT {number}")
            rows.append(row)
        rows.append(Row(f"{name}/part", 0.5, f"{DATA_ROOT}/long.wav", "s", "PART", 8000, 16000))
        manifests[name] = tmp_path / f"{name}.csv"
        write_manifest(manifests[name], rows)
        write_annotations(manifests[name], {row.id: {"room": row.id[-1]} for row in rows})
    trials = tmp_path / "trials.txt"
    trials.write_text("1 trials/a.0.wav trials/a.1.wav\n")
    corpus = Manifests(manifests["train"], manifests["valid"], {"trials": manifests["trials"]})
    corpus = Manifests(corpus.train, corpus.valid, corpus.test, trials)

    def written(
        folder: Path = tmp_path / "shards", size: float = 0.03, **more: float
    ) -> ShardFolder:
        layout = Layout(size)
        writing = ShardWriting(
            folder, "rooms", {"rooms": [1]}, layout, root, 2, progress=False, **more
        )
        writing.begin()
        return writing.write(corpus)

    return written


def test_a_manifest_of_shards_gives_what_the_corpus_has(write: Write, tmp_path: Path) -> None:
    folder = write()
    assert len(folder.splits["train"].shards) > 2
    for name in folder.splits:
        before, after = (read_manifest(at / f"{name}.csv") for at in (tmp_path, folder.path))
        assert [r.id for r in after] == [r.id for r in before]
        assert (after.durations == before.durations).all() and not after.in_parts
        labels = (read_annotations(at / f"{name}.csv") for at in (tmp_path, folder.path))
        assert next(labels) == next(labels)
        for was, now in zip(before, after, strict=True):
            file = was.wav.replace(DATA_ROOT, str(tmp_path / "corpus"))
            member = now.wav.replace(DATA_ROOT, str(folder.path))
            assert (read_audio(member) == read_audio(file, 16000, was.start, was.stop)).all()
    assert (folder.path / "trials.txt").read_text() == (tmp_path / "trials.txt").read_text()


def test_other_tools_read_them(write: Write) -> None:
    folder = write()
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS", "--quiet"], cwd=folder.path)
    assert checked.returncode == 0
    found = {}
    for name in folder.splits["train"].shards:
        with tarfile.open(folder.path / name) as tar:
            audio, about = tar.getmembers()[::2], tar.getmembers()[1::2]
            for one, other in zip(audio, about, strict=True):
                assert one.name.split(".")[0] == other.name.split(".")[0]  # WebDataset's key
                told = json.load(tar.extractfile(other))  # type: ignore[arg-type]
                found[told["id"]] = told
                frames = soundfile.info(tar.extractfile(one)).frames
                assert frames in (4000 + 100 * i for i in range(41))
    assert found["train/a.3.wav"] == {
        "id": "train/a.3.wav",
        "text": "TEXT 3",
        "speaker": "s",
        "duration": 0.25,
        "labels": {"room": "v"},
    }
    assert len(found) == 13 and list(found) != sorted(found)


def test_names() -> None:
    assert member_name("a/b.c.wav") == "a/b%2Ec%2Ewav"
    assert member_name("/../100%") == "%2F%2E%2E/100%25"
    assert member_name("a//b") == "a/%2F/b"


@pytest.mark.parametrize(
    ("name", "how", "suffix", "exact"),
    [
        ("a.wav", {"subtype": "PCM_U8"}, ".flac", True),
        ("a.wav", {"subtype": "PCM_24"}, ".flac", True),
        ("a.wav", {"subtype": "ULAW"}, ".flac", True),
        ("a.wav", {"subtype": "FLOAT"}, ".wav", False),
        ("a.flac", {}, ".flac", True),
        ("a.mp3", {"format": "MP3"}, ".mp3", False),
    ],
)
def test_audio_is_what_it_was(
    tmp_path: Path, name: str, how: dict[str, str], suffix: str, exact: bool
) -> None:
    """Two channels at 8 kHz; whole, as it is, and a part."""
    path = sound(tmp_path / name, 9000, 2, 8000, **how)
    for coding in ("flac", "as_is"):
        content, ends = encode(str(path), 0, None, coding)  # type: ignore[arg-type]
        kept = coding == "as_is" or suffix != ".flac" or name.endswith("flac")
        assert ends == (path.suffix if kept else suffix)
        assert (content == path.read_bytes()) == kept
        (tmp_path / "coded").write_bytes(content)
        assert (read_audio(tmp_path / "coded") == read_audio(path)).all()
    content, ends = encode(str(path), 100, 5000, "as_is")
    (tmp_path / "part").write_bytes(content)
    part, wanted = read_audio(tmp_path / "part"), read_audio(path, 16000, 100, 5000)
    assert ends == ".flac" and abs(part - wanted).max() <= (0 if exact else 2**-22)


def test_damage_is_told(write: Write) -> None:
    folder = write()
    row = next(iter(read_manifest(folder.path / "train.csv")))
    path = row.wav.replace(DATA_ROOT, str(folder.path))
    member = Member.of(path)
    assert member is not None
    shard, whole = Path(member.shard), Path(member.shard).read_bytes()
    flipped = bytearray(whole)
    flipped[member.offset + member.size // 2] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(AudioError, match=r"#\d+.*: truncated or damaged, its CRC-32 is wrong"):
        read_audio(path)
    folder.check()
    with pytest.raises(ShardError, match=f"{shard}: has another content"):
        folder.verify(progress=False)
    shard.write_bytes(whole[: member.offset + 10])
    with pytest.raises(AudioError, match="the shard ends before it"):
        read_audio(path)
    with pytest.raises(ShardError, match=f"{shard}: has .* bytes, not {len(whole)}\nCopy it again"):
        folder.check()
    shard.unlink()
    with pytest.raises(ShardError, match=f"{shard}: is missing"):
        folder.check()
    shard.write_bytes(whole)
    (folder.path / "valid.csv").write_text("ID")
    with pytest.raises(ShardError, match=r"valid\.csv: has another content"):
        folder.check()
    (folder.path / "shards.json").unlink()
    with pytest.raises(ShardError, match=r"has no shards\.json"):
        ShardFolder.read(folder.path)


def test_other_settings_and_other_files_are_refused(write: Write, tmp_path: Path) -> None:
    folder = write()
    with pytest.raises(ShardError, match=r"--shard_size=0\.03, now 9.*another folder"):
        write(size=9)
    with pytest.raises(ShardError, match="holds other files"):
        write(tmp_path / "corpus")
    ShardFolder.read(folder.path).verify(progress=False)


def test_a_full_disk_is_foreseen(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(ShardError, match=r"lacks 0\.\d GB"):
        write()


def test_a_broken_recording_is_left_out_and_told(write: Write, tmp_path: Path) -> None:
    for name in ("trials", "train"):
        file = tmp_path / "corpus" / name / "a.1.wav"
        content = file.read_bytes()
        file.write_bytes(content[:-100])
        if name == "trials":
            with pytest.raises(TooManyBadFiles, match="trials: 1 of 3 utterances are unusable"):
                write()
            file.write_bytes(content)
    folder = write()
    assert folder.splits["train"].left_out == 1
    assert [bad.id for bad in left_out(folder.path / "train.csv")] == ["train/a.1.wav"]
    assert (folder.path / "bad_train.csv").is_file()


def test_a_killed_writer_goes_on(write: Write, tmp_path: Path) -> None:
    """And ends with the bytes of one that was never killed; what was finished is not touched."""
    wanted = write(tmp_path / "reference")

    def die_at(number: int) -> None:
        add, left = ShardWriter.add, [number]

        def dying(*arguments: object) -> Member:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return add(*arguments)  # type: ignore[arg-type]

        ShardWriter.add = dying  # type: ignore[assignment, method-assign]
        write()

    for number in (8, 5, 4):  # recordings, of which each process leaves some unwritten
        process = multiprocessing.get_context("fork").Process(target=die_at, args=(number,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "shards" / "shards.json").exists()
    noted = (tmp_path / "shards" / "preparation").rglob("*.tar.json")
    shards = [tmp_path / "shards" / note.parent.name / note.stem for note in noted]
    finished = {file: file.stat().st_mtime_ns for file in shards}
    assert finished and all(file.is_file() for file in finished)
    folder = write()
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())
    assert not list(folder.path.glob("*/.*"))
    for name in ("SHA256SUMS", "train.csv"):
        assert (folder.path / name).read_text() == (wanted.path / name).read_text()
    sound(tmp_path / "corpus" / "train" / "a.0.wav", 5000)  # another recording: one shard is new
    again = write()
    changed = {file for file, time in finished.items() if file.stat().st_mtime_ns != time}
    assert len(changed) <= 1 and again.sums != wanted.sums
