"""Speed perturbation and SpecAugment: the policy stated, utterance by utterance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.augment.time_domain import DropChunk, DropFreq
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import interpolate
from torchaudio.functional import resample

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.augmentation import (
    SpecAugment,
    SpeedPerturbation,
    WithOriginals,
)

NO_DROPS: dict[str, Any] = {"time_drop_count": 0, "freq_drop_count": 0}
AUGMENTATION = Path(__file__).parents[3] / "hparams" / "augmentation.yaml"


def shares(lengths_B: Tensor) -> Tensor:
    return lengths_B / lengths_B.max()


@pytest.mark.parametrize("axis", ["time", "freq"])
def test_as_many_masks_as_stated(axis: str) -> None:
    """Masks of one frame among thousands: none falls onto another (with this seed)."""
    one_wide = {f"{axis}_drop_count": 4, f"{axis}_drop_low": 1, f"{axis}_drop_high": 2}
    augment = SpecAugment(**NO_DROPS | one_wide, replace="zeros", warp_window=0)
    torch.manual_seed(1)
    ones = torch.ones(40, 3000, 1) if axis == "time" else torch.ones(40, 1, 3000)
    y_BTF, _ = augment(ones, torch.ones(40))
    assert ((y_BTF == 0).sum(dim=(1, 2)) == 4).all()


def test_widths_and_places_of_masks() -> None:
    """15 to 24 frames, beginning anywhere in the own utterance; at its end they are cut."""
    one = {"time_drop_count": 1, "time_drop_low": 15, "time_drop_high": 25, "freq_drop_count": 0}
    augment = SpecAugment(**one, replace="zeros", warp_window=0)
    torch.manual_seed(0)
    lengths_B = torch.tensor([60] * 2000 + [90])
    y_BTF, _ = augment(torch.ones(2001, 90, 2), shares(lengths_B))
    assert (y_BTF[:2000, 60:] == 0).all()
    dropped_BT = y_BTF[:2000, :60, 0] == 0
    first_B, width_B = dropped_BT.float().argmax(dim=1), dropped_BT.sum(dim=1)
    assert sorted(set(first_B.tolist())) == list(range(60))
    assert set(width_B[first_B < 35].tolist()) == set(range(15, 25))
    cut_B = first_B + width_B == 60
    assert (cut_B | (width_B >= 15)).all() and cut_B.any()


def test_masks_are_filled_with_the_mean_of_the_utterance() -> None:
    augment = SpecAugment(time_drop_low=5, time_drop_high=6, warp_window=0)
    lengths_B = torch.tensor([40, 100])
    x_BTF = torch.randn(2, 100, 80) + torch.tensor([3.0, -2.0])[:, None, None]
    x_BTF[0, 40:] = -50.0
    y_BTF, share_B = augment(x_BTF, shares(lengths_B))
    assert torch.equal(share_B, shares(lengths_B))
    for x_TF, y_TF, length in zip(x_BTF, y_BTF, lengths_B, strict=True):
        changed_TF = (x_TF != y_TF)[:length]
        assert changed_TF.any() and not changed_TF.all()
        filled = y_TF[:length][changed_TF]
        torch.testing.assert_close(filled, x_TF[:length].mean().expand_as(filled))
        assert (y_TF[length:] == 0).all()


def test_warp_is_a_bicubic_interpolation_of_both_sides() -> None:
    """As SpeechBrain's Warping, of each utterance by itself; short ones stay as they are."""
    window, lengths_B = 5, torch.tensor([11, 30, 64, 47, 10, 3])
    x_BTF = torch.randn(6, 64, 7)
    torch.manual_seed(2)
    y_BTF, _ = SpecAugment(**NO_DROPS, warp_window=window)(x_BTF, shares(lengths_B))
    torch.manual_seed(2)
    for x_TF, y_TF, size, (u, v) in zip(x_BTF, y_BTF, lengths_B, torch.rand(6, 2), strict=True):
        length, want_TF = int(size), x_TF[:size]
        if length > 2 * window:
            cut = window + int(u * (length - 2 * window))
            moved = cut - window + 1 + int(v * 2 * window)
            parts = [(want_TF[:cut], moved), (want_TF[cut:], length - moved)]
            want_TF = torch.cat([stretched(part_TF, frames) for part_TF, frames in parts])
        torch.testing.assert_close(y_TF[:length], want_TF, atol=1e-5, rtol=1e-5)


def stretched(x_TF: Tensor, frames: int) -> Tensor:
    if frames == 0:
        return x_TF[:0]
    size = (frames, x_TF.shape[1])
    return interpolate(x_TF[None, None], size, mode="bicubic", align_corners=True)[0, 0]


def test_no_value_is_waited_for() -> None:
    """Fake tensors have no values: reading one, which on a GPU means waiting, is an error."""
    with FakeTensorMode():
        y_BTF, _ = SpecAugment()(torch.ones(2, 50, 80), torch.ones(2))
    assert y_BTF.shape == (2, 50, 80)


@pytest.mark.parametrize("speed", [95, 100, 105, 90])
def test_speed_is_that_of_the_utterance_alone(speed: int) -> None:
    lengths_B = torch.tensor([1501, 700, 1499])
    samples_BL = torch.randn(3, 1501)
    for row, length in enumerate(lengths_B):
        samples_BL[row, length:] = 0
    y_BL, share_B = SpeedPerturbation([speed])(samples_BL, shares(lengths_B))
    got_B = (share_B * y_BL.shape[1]).round().long().tolist()
    for x_L, y_L, length, got in zip(samples_BL, y_BL, lengths_B, got_B, strict=True):
        want_L = resample(x_L[:length], speed, 100)
        assert got == len(want_L) == -(-100 * int(length) // speed)
        torch.testing.assert_close(y_L[:got], want_L, atol=1e-5, rtol=1e-5)
        assert (y_L[got:] == 0).all()


def test_every_speed_is_drawn() -> None:
    perturb = SpeedPerturbation([50, 100, 200])
    torch.manual_seed(0)
    lengths = {perturb(torch.ones(1, 100), torch.ones(1))[0].shape[1] for _ in range(20)}
    assert lengths == {50, 100, 200}


def test_the_yaml_file_says_the_policy() -> None:
    with AUGMENTATION.open() as file:
        loaded = load_hyperpyyaml(file, "drop_replace: zeros\nspeeds: [100]")
    augment = loaded["fea_augment"]
    assert (augment.time_drop_count, augment.time_widths) == (3, (0, 40))
    assert (augment.freq_drop_count, augment.freq_widths) == (2, (0, 30))
    assert (augment.warp_window, augment.replace) == (5, "zeros")
    assert loaded["wav_augment"].speeds == (100,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replace": "rand"}, "replace='rand'.*mean or zeros"),
        ({"warp_window": -1}, "warp_window=-1.*0 for none"),
        ({"time_drop_low": 25}, "time_drop_low=25, time_drop_high=25.*above low"),
        ({"freq_drop_count": -1}, "freq_drop_count=-1.*must not be negative"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpecAugment(**options)


@pytest.mark.parametrize("speeds", [[], [0], [97.5]])
def test_speeds_that_are_refused(speeds: list[Any]) -> None:
    with pytest.raises(InputError, match="whole numbers of percent"):
        SpeedPerturbation(speeds)


def test_originals_come_first_and_targets_twice() -> None:
    lengths_B = torch.tensor([1501, 700])
    samples_BL = torch.randn(2, 1501)
    samples_BL[1, 700:] = 0
    drop_freq, drop_chunk = DropFreq(), DropChunk(100, 200)
    augment = WithOriginals(SpeedPerturbation([80]), drop_freq, drop_chunk)
    torch.manual_seed(0)
    y_BL, share_B = augment(samples_BL, shares(lengths_B))
    got_B = (share_B * y_BL.shape[1]).round().long().tolist()
    assert got_B == [1501, 700, 1877, 875] and torch.equal(y_BL[:2, :1501], samples_BL)
    torch.manual_seed(0)
    want_BL, want_B = SpeedPerturbation([80])(samples_BL, shares(lengths_B))
    torch.testing.assert_close(y_BL[2:], drop_chunk(drop_freq(want_BL), want_B))
