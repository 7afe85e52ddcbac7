"""Audio in blocks and windows."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.transforms import Resample

from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference.audio import (
    BLOCK_SECONDS,
    find_audio,
    read_blocks,
    resample_blocks,
    total_seconds,
)
from summarymixing_modules.inference.windows import cut_windows


@pytest.mark.parametrize("source", [8000, 11025, 22050, 44100, 48000, 96000, 16000])
@pytest.mark.parametrize("block", [1, 37, 4000, 10**6])
def test_resampling_in_blocks_equals_that_of_the_whole(source: int, block: int) -> None:
    audio_L = torch.randn(source // 4 + 13 if block > 1 else 300)
    blocks = list(resample_blocks(audio_L.split(block), source, 16000))
    expected_L = Resample(source, 16000)(audio_L)
    torch.testing.assert_close(torch.cat(blocks), expected_L, rtol=1e-5, atol=1e-5)
    if block == 4000:
        assert len(blocks) > 1 or len(audio_L) <= 4000


def tone(rate: int, seconds: float, channels: int) -> np.ndarray:
    times = np.arange(int(rate * seconds)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * times)
    return np.stack([wave, *[0 * wave] * (channels - 1)], axis=1).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 2), (16000, 1), (44100, 2)])
def test_formats_rates_and_channels(suffix: str, rate: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / f"tone.{suffix}"
    seconds = 1.2 * BLOCK_SECONDS  # more than a block
    soundfile.write(path, tone(rate, seconds, channels), rate)
    audio_L = torch.cat(list(read_blocks(path, 16000)))
    assert abs(len(audio_L) / 16000 - seconds) < (0.1 if suffix == "mp3" else 0.001)
    spectrum = torch.fft.rfft(audio_L[16000:48000]).abs()
    assert abs(int(spectrum.argmax()) / 2 - 440) < 2
    loudness = audio_L[16000:48000].square().mean().sqrt() * channels * 2**0.5
    assert abs(loudness - 0.3) < 0.03
    assert abs(total_seconds([path]) - seconds) < 0.2


def test_bad_files_are_named(tmp_path: Path) -> None:
    whole, cut, text = tmp_path / "a.flac", tmp_path / "cut.flac", tmp_path / "text.wav"
    soundfile.write(whole, tone(16000, 3, 1) + np.random.randn(48000, 1) / 10, 16000)
    cut.write_bytes(whole.read_bytes()[:30_000])
    text.write_text("no audio")
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.full(100, np.nan, np.float32), 16000, subtype="FLOAT")
    for path in (cut, text, nan, tmp_path / "missing.wav"):
        with pytest.raises(AudioError, match=path.name):
            list(read_blocks(path, 16000))
    assert total_seconds([text, whole]) == 3


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("a/x.wav", "a/b/y.FLAC", "a/notes.txt", "z.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_audio([tmp_path / "a", str(tmp_path / "**" / "*.mp3"), tmp_path / "a" / "x.wav"])
    assert [str(name) for _, name in found] == ["b/y.FLAC", "x.wav", "z.mp3"]
    assert [file.name for file, _ in found] == ["y.FLAC", "x.wav", "z.mp3"]
    (tmp_path / "empty").mkdir()
    for pattern in ("empty", "*.ogg", "nothing.wav"):
        with pytest.raises(
            InputError, match=rf"{re.escape(pattern)}.*(no such file|holds no audio)"
        ):
            find_audio([str(tmp_path / pattern)])


def test_names_that_are_not_utf8_and_pipes_do_not_stop_a_folder(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(tmp_path / "x.wav", tone(16000, 0.1, 1), 16000)
    odd.write_bytes((tmp_path / "x.wav").read_bytes())
    os.mkfifo(tmp_path / "pipe.wav")
    files = [file for file, _ in find_audio([tmp_path])]
    assert files == [odd, tmp_path / "pipe.wav", tmp_path / "x.wav"]
    assert len(torch.cat(list(read_blocks(odd, 16000)))) == 1600
    with pytest.raises(AudioError, match=r"pipe\.wav: is a pipe"):
        list(read_blocks(files[1], 16000))


def test_windows_are_all_of_the_audio_and_are_cut_in_pauses() -> None:
    rate = 1000
    audio_L = torch.randn(20 * rate)
    pauses = [(3.0, 3.4), (7.0, 7.4), (11.1, 11.5), (15.2, 15.6)]
    for start, end in pauses:
        audio_L[int(start * rate) : int(end * rate)] = 0
    windows = list(cut_windows(audio_L.split(777), rate, 5.0))
    torch.testing.assert_close(torch.cat([window.samples_L for window in windows]), audio_L)
    assert all(0 < len(window.samples_L) <= 5 * rate for window in windows)
    starts = [window.start for window in windows]
    lengths = [len(window.samples_L) for window in windows]
    assert starts == [0, *np.cumsum(lengths)[:-1].tolist()]
    for start, (low, high) in zip(starts[1:], pauses, strict=True):
        assert low <= start / rate <= high


def test_what_fits_is_one_window() -> None:
    for length in (1, 500, 5000):
        (window,) = cut_windows([torch.randn(length)], 1000, 5.0)
        assert window.start == 0 and len(window.samples_L) == length
    assert not list(cut_windows([], 1000, 5.0))
