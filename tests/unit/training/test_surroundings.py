"""Noise, rooms and other voices: what each utterance gets alone, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.features import Features
from summarymixing_modules.training.surroundings import (
    NoiseAndRooms,
    UtteranceMixing,
    at_ratio,
    in_room,
)

LENGTHS = torch.tensor([8000, 5000, 16000])


@pytest.fixture
def noises(tmp_path: Path) -> Path:
    """Two files, shorter and longer than utterances, at other rates and with two channels."""
    draw = np.random.default_rng(0)
    (tmp_path / "noise" / "more").mkdir(parents=True)
    soundfile.write(tmp_path / "noise" / "short.wav", 0.2 * draw.standard_normal((900, 2)), 8000)
    long_L = draw.standard_normal(90000) / 9
    soundfile.write(tmp_path / "noise" / "more" / "long.flac", long_L, 44100)
    (tmp_path / "noise" / "readme.txt").write_text("no audio")
    return tmp_path / "noise"


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """One room, whose direct sound comes late; given by a table."""
    impulse = np.zeros(400)
    impulse[[50, 90, 300]] = 0.9, 0.4, -0.2
    soundfile.write(tmp_path / "room.wav", impulse, 16000, subtype="FLOAT")
    (tmp_path / "rooms.csv").write_text("path,kind\nroom.wav,small\n")
    return tmp_path / "rooms.csv"


def speech() -> tuple[Tensor, Tensor]:
    """Padded audio and shares."""
    torch.manual_seed(1)
    samples_BL = 0.1 * torch.randn(3, 16000)
    samples_BL[torch.arange(16000) >= LENGTHS[:, None]] = 0.0
    return samples_BL, LENGTHS / 16000


def test_the_ratio_is_that_of_real_samples(noises: Path) -> None:
    samples_BL, share_B = speech()
    augment = NoiseAndRooms(str(noises), noise_snr_low=6.0, noise_snr_high=6.0)
    heard_BL, shares = augment(samples_BL, share_B)
    assert torch.equal(shares, share_B)
    for heard_L, clean_L, length in zip(heard_BL, samples_BL, LENGTHS.tolist(), strict=True):
        noise_L = (heard_L - clean_L)[:length]
        ratio = clean_L[:length].square().mean() / noise_L.square().mean()
        assert 10 * math.log10(ratio) == pytest.approx(6.0, abs=1e-3)
        assert torch.equal(heard_L[length:], torch.zeros(16000 - length))


def test_a_room_is_a_convolution_from_the_direct_sound_on(rooms: Path) -> None:
    samples_BL, share_B = speech()
    heard_BL, _ = NoiseAndRooms(rir_manifest=str(rooms))(samples_BL, share_B)
    for heard_L, clean_L, length in zip(heard_BL, samples_BL, LENGTHS.tolist(), strict=True):
        naive = clean_L[:length].double().numpy()
        expected = 0.9 * naive
        expected[40:] += 0.4 * naive[:-40]
        expected[250:] -= 0.2 * naive[:-250]
        expected *= np.sqrt(np.mean(naive**2) / np.mean(expected**2))
        np.testing.assert_allclose(heard_L[:length], expected, atol=2e-6)
        assert not heard_L[length:].any()


@pytest.mark.parametrize("kind", ["noise", "room", "both"])
def test_the_first_sounds_the_same_whatever_stands_beside_it(
    kind: str, noises: Path, rooms: Path
) -> None:
    augment = NoiseAndRooms(
        None if kind == "room" else str(noises), None if kind == "noise" else str(rooms)
    )
    samples_BL, share_B = speech()
    torch.manual_seed(3)
    beside_BL, _ = augment(samples_BL, share_B)
    torch.manual_seed(3)
    alone_BL, _ = augment(samples_BL[:1, :8000], torch.ones(1))
    torch.testing.assert_close(beside_BL[:1, :8000], alone_BL)
    assert not torch.equal(alone_BL, samples_BL[:1, :8000])


def test_shares_and_silence(noises: Path) -> None:
    samples_BL, share_B = torch.randn(400, 200), torch.ones(400)
    heard_BL, _ = NoiseAndRooms(str(noises), noise_prob=0.3)(samples_BL, share_B)
    changed = (heard_BL != samples_BL).any(dim=1).float().mean()
    assert 0.2 < float(changed) < 0.4
    silence_BL = torch.zeros(2, 300)
    both = NoiseAndRooms(str(noises))(silence_BL, torch.ones(2))[0]
    assert torch.equal(both, silence_BL), "no power, no noise"
    assert at_ratio(torch.zeros(5), torch.ones(5), 3.0).eq(0).all()
    assert in_room(torch.zeros(9), torch.ones(3)).isfinite().all()


def test_without_recordings_nothing_is_drawn() -> None:
    samples_BL, share_B = speech()
    for module in (NoiseAndRooms(), UtteranceMixing()):
        before = torch.random.get_rng_state()
        assert module(samples_BL, share_B)[0] is samples_BL and not module.active
        assert torch.equal(torch.random.get_rng_state(), before)


def test_mixing_adds_a_piece_of_at_most_half() -> None:
    samples_BL, share_B = speech()
    for _ in range(4):
        mixed_BL, _ = UtteranceMixing(1.0)(samples_BL, share_B)
        for row, length in enumerate(LENGTHS.tolist()):
            places = (mixed_BL[row] != samples_BL[row]).nonzero().flatten()
            if not len(places):
                continue
            low, high = int(places[0]), int(places[-1]) + 1
            assert high <= length and high - low <= length / 2
            added_L = (mixed_BL[row] - samples_BL[row])[low:high]
            own = samples_BL[row, low:high].square().mean() / added_L.square().mean()
            assert abs(10 * math.log10(own)) <= 5.01
            others = [other for other in range(3) if other != row]
            unfolded = samples_BL[others].unfold(1, high - low, 1)
            scaled = added_L / added_L.norm()
            alike = (unfolded @ scaled) / unfolded.norm(dim=-1).clamp(min=1e-9)
            assert float(alike.max()) > 0.999, "it is a piece of another"
    alone_BL, _ = UtteranceMixing(1.0)(samples_BL[:1], share_B[:1])
    assert torch.equal(alone_BL, samples_BL[:1])


def test_wrong_recordings_are_told(tmp_path: Path, noises: Path) -> None:
    samples_BL, share_B = speech()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    (tmp_path / "wrong.csv").write_text("file_name\nx.wav\n")
    (tmp_path / "gone.csv").write_text("path\ngone.wav\n")
    for source, told in (
        (tmp_path / "nowhere", "--noise_manifest=.*nowhere: there is no such file"),
        (tmp_path / "empty", "empty: holds no audio files"),
        (tmp_path / "wrong.csv", "has no column path or wav"),
        (tmp_path / "gone.csv", "--noise_manifest=.*gone.wav: no such audio file"),
        (tmp_path, "--noise_manifest=.*bad.wav: cannot be read as audio"),
    ):
        with pytest.raises(InputError, match=told):
            NoiseAndRooms(str(source))(samples_BL, share_B)
    with pytest.raises(InputError, match="--noise_snr_low=9 is above --noise_snr_high=3"):
        NoiseAndRooms(str(noises), noise_snr_low=9, noise_snr_high=3)


def test_statistics_are_of_what_is_heard_and_clean_features_are_made_when_asked_for(
    noises: Path,
) -> None:
    """Once for a batch, whether the clean features are wanted or not."""
    samples_BL, share_B = speech()
    counts, made = [], []
    for wanted in (False, True):
        compute = Fbank()
        calls = compute.register_forward_hook(lambda *_: made.append(1))
        normalize = InputNormalization(norm_type="global")
        features = Features(compute, normalize, surroundings=[NoiseAndRooms(str(noises))]).train()
        torch.manual_seed(3)
        call = features.heard_and_clean if wanted else features
        output = call(samples_BL, share_B, 1)
        counts.append((float(normalize.count), normalize.glob_mean.clone()))
        assert len(made) == (3 if wanted else 1) and normalize.training
        calls.remove()
    assert counts[0][0] == counts[1][0]
    torch.testing.assert_close(counts[0][1], counts[1][1])
    assert not torch.allclose(output[0], output[2])
