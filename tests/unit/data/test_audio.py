"""Reading audio: the right samples, and an error that names file, problem and remedy."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from summarymixing_modules.data.audio import (
    AudioError,
    AudioInfo,
    check_audio,
    probe_audio,
    read_audio,
)


def write(path: Path, frames: int = 8000, rate: int = 16000, channels: int = 1) -> Path:
    samples = 0.1 * np.random.default_rng(1).standard_normal((frames, channels))
    soundfile.write(path, samples, rate)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".ogg"])
def test_reads_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}")
    expected = soundfile.read(path, dtype="float32")[0]
    samples = read_audio(path)
    assert samples.dtype == torch.float32 and samples.shape == (8000,)
    assert np.array_equal(samples.numpy(), expected)
    assert np.array_equal(read_audio(path, start=100, stop=300).numpy(), expected[100:300])
    assert probe_audio(path) == check_audio(path) == AudioInfo(8000, 16000, 1)
    assert probe_audio(path).duration == 0.5


def test_sphere_files(tmp_path: Path) -> None:
    """Those of NIST: read by part; cut short or compressed, which libsndfile does not tell."""
    path, samples = tmp_path / "talk.sph", np.linspace(-0.5, 0.5, 8000)
    soundfile.write(path, samples, 16000, format="NIST", subtype="PCM_16")
    assert check_audio(path) == AudioInfo(8000, 16000, 1)
    assert np.allclose(read_audio(path, start=100, stop=300).numpy(), samples[100:300], atol=1e-4)
    content = path.read_bytes()
    coding = b"sample_coding -s26 pcm,embedded-shorten-v2.00"
    path.write_bytes(content.replace(b"sample_coding -s3 pcm", coding))
    with pytest.raises(AudioError, match=r"compressed \(embedded-shorten-v2\.00\).*sph2pipe"):
        probe_audio(path)
    path.write_bytes(content[:9024])
    with pytest.raises(AudioError, match="promises 8000 samples, the file holds 4000"):
        probe_audio(path)


def test_missing_file(tmp_path: Path) -> None:
    for read in (probe_audio, read_audio):
        with pytest.raises(AudioError, match=r"gone\.flac: no such audio file: check that"):
            read(tmp_path / "gone.flac")


@pytest.mark.timeout(20)
def test_what_is_no_file_or_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")  # opened without care, it would be waited for
    problems = {"folder.wav": "is a folder, not a file", "pipe.wav": "is a pipe or a device"}
    for name, problem in problems.items():
        with pytest.raises(AudioError, match=f"{name}: {problem}"):
            probe_audio(tmp_path / name)
    path = write(tmp_path / "secret.wav")

    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AudioError, match=r"secret\.wav: may not be read .*chmod u\+r"):
        probe_audio(path)


def test_a_name_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("looked up again")

    monkeypatch.setattr(os, "stat", refuse)
    samples_L = read_audio(path)
    monkeypatch.undo()
    assert samples_L.shape == (8000,)


def test_a_name_that_is_not_utf8_can_be_read_but_is_not_for_manifests(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write(tmp_path / "a.wav").rename(path)
    assert read_audio(path).shape == (8000,)
    with pytest.raises(AudioError, match=r"caf\\udce9\.wav: the name is not UTF-8.*: rename it"):
        check_audio(path)


def test_empty_file_text_file_and_zero_length(tmp_path: Path) -> None:
    (tmp_path / "empty.flac").touch()
    (tmp_path / "text.flac").write_text("not audio")
    write(tmp_path / "zero.wav", frames=0)
    for name, problem in {
        "empty.flac": "is empty",
        "text.flac": "cannot be read as audio",
        "zero.wav": "holds no samples",
    }.items():
        for read in (probe_audio, read_audio):
            with pytest.raises(AudioError, match=f"{name}: .*{problem}.*download or copy it again"):
                read(tmp_path / name)


def test_truncated_flac_is_found_by_decoding(tmp_path: Path) -> None:
    path = cut(write(tmp_path / "a.flac"))
    assert probe_audio(path).frames == 8000
    with pytest.raises(AudioError, match=r"a\.flac: truncated or damaged"):
        read_audio(path)


@pytest.mark.parametrize("suffix", [".wav", ".ogg"])
def test_truncation_that_the_header_reveals(tmp_path: Path, suffix: str) -> None:
    path = cut(write(tmp_path / f"a{suffix}", frames=64000))
    for read in (probe_audio, read_audio):
        with pytest.raises(AudioError, match="truncated or damaged"):
            read(path)


def test_a_wav_file_written_to_a_pipe_is_not_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    size_at = content.index(b"data") + 4
    content[size_at : size_at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert read_audio(path).shape == (8000,)


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", frames=32000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(content)
    with pytest.raises(AudioError, match="truncated or damaged"):
        read_audio(path)


def test_wrong_rate_and_channels(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="sampled at 8000 Hz, 16000 Hz is needed: resample it"):
        check_audio(write(tmp_path / "slow.wav", rate=8000))
    with pytest.raises(AudioError, match="has 2 channels, one is needed: mix it down"):
        check_audio(write(tmp_path / "stereo.wav", channels=2))
    assert check_audio(write(tmp_path / "ok.wav", rate=8000), 8000) == AudioInfo(8000, 8000, 1)
    assert check_audio(tmp_path / "stereo.wav", None) == AudioInfo(8000, 16000, 2)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_reads_any_format_and_only_the_part_asked_for(tmp_path: Path, rate: int) -> None:
    """A tone of 440 Hz on one of two channels, as if it had been recorded at 16 kHz on one."""
    seconds_L = np.arange(2 * rate) / rate
    stereo = np.stack([np.sin(2 * np.pi * 440 * seconds_L), np.zeros(2 * rate)], axis=1)
    soundfile.write(tmp_path / "a.wav", 0.5 * stereo, rate, subtype="FLOAT")
    samples_L = read_audio(tmp_path / "a.wav", start=rate // 2, stop=rate // 2 + rate).numpy()
    expected_L = 0.25 * np.sin(2 * np.pi * 440 * (0.5 + np.arange(16000) / 16000))
    assert len(samples_L) == 16000
    inner = slice(200, -200)  # outside of the part there is silence, which the filter hears
    assert np.abs(samples_L - expected_L)[inner].max() < 0.003


def test_samples_that_are_not_numbers(tmp_path: Path) -> None:
    samples = np.zeros(100, dtype=np.float32)
    samples[3] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: holds samples that are NaN"):
        read_audio(tmp_path / "nan.wav")


@pytest.mark.parametrize(("start", "stop"), [(0, 8001), (-1, 10), (20, 20), (9000, None)])
def test_segments_outside_the_file(tmp_path: Path, start: int, stop: int | None) -> None:
    with pytest.raises(AudioError, match="were asked for, but it has 8000"):
        read_audio(write(tmp_path / "a.wav"), start=start, stop=stop)


def test_the_error_travels_between_processes(tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        read_audio(tmp_path / "gone.flac")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_recorded_speech(recorded_librispeech: Path) -> None:
    paths = sorted(recorded_librispeech.rglob("*.flac"))[:3]
    assert paths
    for path in paths:
        info = check_audio(path)
        samples = read_audio(path)
        assert samples.shape == (info.frames,) and 1 < info.duration < 36
        assert 0.001 < samples.std() < 0.5
