"""Features of a batch are those of its utterances alone: filterbanks and samples."""

from __future__ import annotations

from typing import Any

import pytest
import speechbrain as sb
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from summarymixing_modules.models.valid_frontend import Waveform
from summarymixing_modules.training.features import FeatureBrain


def make_brain(compute_features: Any) -> FeatureBrain:
    normalize = InputNormalization(norm_type="sentence", avoid_padding_norm=True)
    hparams = {"compute_features": compute_features}
    return FeatureBrain({"normalize": normalize}, hparams=hparams, run_opts={"device": "cpu"})


@pytest.mark.parametrize("features", [Fbank(n_fft=400, n_mels=10), Waveform()])
def test_features_do_not_depend_on_the_other_utterances(features: torch.nn.Module) -> None:
    """Many lengths: how they are rounded differs among them."""
    brain = make_brain(features)
    torch.manual_seed(0)
    longest = 12_000
    samples_BL = torch.randn(40, longest)
    lengths = torch.linspace(3000, longest, 40).long().tolist()
    for row, length in enumerate(lengths):
        samples_BL[row, length:] = 0
    share_B = torch.tensor(lengths) / longest
    together_BTF, frames_B = brain.features(samples_BL, share_B, sb.Stage.VALID)
    for row, length in enumerate(lengths):
        alone_BTF, (frames,) = brain.features(
            samples_BL[row : row + 1, :length], torch.ones(1), sb.Stage.VALID
        )
        assert frames == frames_B[row] == alone_BTF.shape[1]
        torch.testing.assert_close(together_BTF[row, :frames], alone_BTF[0], rtol=1e-4, atol=1e-4)


def test_samples_are_normalised_over_the_utterance() -> None:
    brain = make_brain(Waveform())
    samples_BL = torch.zeros(2, 1000)
    samples_BL[0], samples_BL[1, :400] = 3 + 2 * torch.randn(1000), torch.randn(400)
    features_BL1, frames_B = brain.features(samples_BL, torch.tensor([1.0, 0.4]), sb.Stage.TRAIN)
    assert frames_B.tolist() == [1000, 400] and features_BL1.shape == (2, 1000, 1)
    for features_L1, length in zip(features_BL1, (1000, 400), strict=True):
        real_L1 = features_L1[:length]
        torch.testing.assert_close(real_L1.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(real_L1.std(correction=0), torch.tensor(1.0))
    assert (features_BL1[1, 400:] == 0).all()
