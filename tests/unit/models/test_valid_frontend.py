"""Front ends without padding: lengths, padding, sizes; samples as features."""

from __future__ import annotations

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.wav2vec import W2VLatentExtractor

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.describe import build, describe
from summarymixing_modules.models.features.valid_frontend import (
    ValidConvFrontEnd,
    Waveform,
    features_for,
    frontend_for,
    real_frames,
)

LENGTHS = {"mel": [61, 40, 23, 7, 6, 0], "waveform": [3300, 2000, 801, 320, 300, 0]}


def make(frontend_type: str) -> ValidConvFrontEnd:
    torch.manual_seed(0)
    return frontend_for(frontend_type, n_mels=5, channels=8)


@pytest.mark.parametrize("frontend_type", ["mel", "waveform"])
def test_an_utterance_is_the_same_alone_and_beside_longer_ones(frontend_type: str) -> None:
    frontend, lengths = make(frontend_type), torch.tensor(LENGTHS[frontend_type])
    size = 5 if frontend_type == "mel" else 1
    x_BTF = torch.randn(len(lengths), int(lengths[0]), size, requires_grad=True)
    padding_BT = torch.arange(x_BTF.shape[1]) >= lengths[:, None]
    dirty_BTF = x_BTF.masked_fill(padding_BT[..., None], 1e6)
    y_BTC, frames_B = frontend(dirty_BTF, lengths)
    for x_TF, y_TC, length, frames in zip(dirty_BTF, y_BTC, lengths, frames_B, strict=True):
        alone_BTC, alone_B = frontend(x_TF[None, :length], length[None])
        assert alone_B[0] == frames
        torch.testing.assert_close(alone_BTC[0, :frames], y_TC[:frames], rtol=1e-4, atol=1e-5)
        assert (y_TC[frames:] == 0).all()
    y_BTC.square().sum().backward()
    assert x_BTF.grad is not None and x_BTF.grad.isfinite().all()
    assert (x_BTF.grad[padding_BT] == 0).all()


@pytest.mark.parametrize("frontend_type", ["mel", "waveform"])
def test_lengths_are_those_of_the_convolutions(frontend_type: str) -> None:
    frontend = make(frontend_type)
    size = 5 if frontend_type == "mel" else 1
    field, step = frontend.receptive_field, frontend.subsampling
    assert (field, step) == ((7, 2) if frontend_type == "mel" else (400, 320))
    for length in (field, field + 1, field + step - 1, field + step, field + 9 * step):
        y_BTC, frames_B = frontend(torch.randn(1, length, size), torch.tensor([length]))
        assert y_BTC.shape[1] == int(frames_B) == (length - field) // step + 1
    short_BTC, frames_B = frontend(torch.randn(1, field - 1, size), torch.tensor([field - 1]))
    assert short_BTC.shape == (1, 1, 8) and frames_B.tolist() == [0] and (short_BTC == 0).all()


def test_equals_speechbrains_extractor() -> None:
    kernels, strides = [11, 3, 3, 3, 3, 3, 3], [5, 2, 2, 2, 2, 2, 2]
    torch.manual_seed(0)
    own = ValidConvFrontEnd(1, 8, kernels, strides)
    theirs = W2VLatentExtractor([8] * 7, kernels, strides).eval()
    for ours, parameter in zip(own.convs, _convolutions(theirs), strict=True):
        parameter.data.copy_(ours.weight.data)  # type: ignore[operator, union-attr]
    samples_BL = torch.randn(2, 4000)
    lengths = torch.tensor([4000, 3000])
    y_BTC, frames_B = own(samples_BL[..., None], lengths)
    want_BTC = theirs(samples_BL, normalize_signal=False)
    torch.testing.assert_close(y_BTC[0], want_BTC[0], rtol=1e-4, atol=1e-5)
    assert frames_B.tolist() == theirs.get_output_lengths(lengths).tolist()


def _convolutions(extractor: W2VLatentExtractor) -> list[torch.nn.Parameter]:
    return [p for name, p in extractor.named_parameters() if p.dim() == 3]


def test_features_and_real_frames() -> None:
    filterbanks = Fbank(n_fft=400, n_mels=5)
    assert features_for("mel", filterbanks) is filterbanks
    waveform = features_for("waveform", filterbanks)
    samples_BL = torch.randn(2, 1600)
    assert torch.equal(waveform(samples_BL), samples_BL[..., None])
    samples_B = torch.tensor([1600, 900])
    assert real_frames(Waveform(), samples_B, 1600).tolist() == [1600, 900]
    frames = filterbanks(samples_BL).shape[1]
    assert real_frames(filterbanks, samples_B, frames).tolist() == [11, 6] and frames == 11


def test_can_be_described_and_built_again() -> None:
    frontend = make("waveform")
    again = build(describe(frontend))
    again.load_state_dict(frontend.state_dict())
    x_BTF, lengths = torch.randn(1, 900, 1), torch.tensor([900])
    torch.testing.assert_close(again(x_BTF, lengths), frontend(x_BTF, lengths))


def test_bad_settings_are_told() -> None:
    with pytest.raises(InputError, match="frontend_type 'mfcc'.*mel or waveform"):
        frontend_for("mfcc")
    with pytest.raises(InputError, match="frontend_type"):
        features_for("mfcc", torch.nn.Identity())
    with pytest.raises(InputError, match="2 kernel_sizes and 1 strides"):
        ValidConvFrontEnd(5, 8, [3, 3], [2])
