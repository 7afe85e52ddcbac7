"""Features of a batch are those of its utterances alone, in training and evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import AddNoise
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models import ConvFrontEnd1d, CTCModel, TransformerASR
from summarymixing_modules.models.features.valid_frontend import Waveform
from summarymixing_modules.training.augmentation import SpecAugment, SpeedPerturbation
from summarymixing_modules.training.features import Features

MELS = 10
FEATURES = {"mel": Fbank(n_fft=400, n_mels=MELS), "waveform": Waveform()}
SPEC_AUGMENT = SpecAugment(2, 5, 9, 1, 1, 3)
SEED = 5  # its warp is one of several frames


def make(features: str = "mel", **augmentation: Any) -> Features:
    normalize = InputNormalization(norm_type="sentence", avoid_padding_norm=True)
    return Features(FEATURES[features], normalize, **augmentation)


def alone_and_beside(length: int) -> tuple[Tensor, Tensor]:
    """An utterance that grows louder, and a batch of it and one three times as long."""
    own_1L = torch.randn(1, length) * torch.linspace(0.1, 1, length)
    beside_2L = torch.randn(2, 3 * length)
    beside_2L[0] = 0
    beside_2L[0, :length] = own_1L
    return own_1L, beside_2L


@pytest.mark.parametrize("kind", FEATURES)
def test_features_do_not_depend_on_the_other_utterances(kind: str) -> None:
    """Many lengths: how they are rounded differs among them."""
    features = make(kind)
    torch.manual_seed(0)
    longest = 12_000
    samples_BL = torch.randn(40, longest)
    lengths = torch.linspace(3000, longest, 40).long().tolist()
    for row, length in enumerate(lengths):
        samples_BL[row, length:] = 0
    share_B = torch.tensor(lengths) / longest
    together_BTF, frames_B = features(samples_BL, share_B, 1)
    for row, length in enumerate(lengths):
        alone_BTF, (frames,) = features(samples_BL[row : row + 1, :length], torch.ones(1), 1)
        assert frames == frames_B[row] == alone_BTF.shape[1]
        torch.testing.assert_close(together_BTF[row, :frames], alone_BTF[0], rtol=1e-4, atol=1e-4)
        assert (together_BTF[row, frames:] == 0).all()


@pytest.mark.parametrize("speed", [95, 105])
@pytest.mark.parametrize("length", [8000, 7999, 8317, 9119])
def test_augmented_features_do_not_depend_on_longer_utterances(speed: int, length: int) -> None:
    """Same draws: same speed, masks, fill and warp, to the last frame; 1e-5 of features near 1."""
    features = make(wav_augment=SpeedPerturbation([speed]), fea_augment=SPEC_AUGMENT)
    own_1L, beside_2L = alone_and_beside(length)
    torch.manual_seed(SEED)
    alone_BTF, (frames,) = features(own_1L, torch.ones(1), 1)
    torch.manual_seed(SEED)
    share_B = torch.tensor([1 / 3, 1.0])
    beside_BTF, (beside_frames, _) = features(beside_2L, share_B, 1)
    assert frames == beside_frames == alone_BTF.shape[1]
    torch.testing.assert_close(beside_BTF[0, :frames], alone_BTF[0], rtol=0, atol=1e-5)
    assert (beside_BTF[0, frames:] == 0).all()


def test_a_training_step_does_not_depend_on_longer_utterances() -> None:
    """A Conformer with CTC on augmented features: the gradient of an utterance's loss."""
    augmentation = {"wav_augment": SpeedPerturbation(), "fea_augment": SPEC_AUGMENT}
    features = make(**augmentation)
    encoder = TransformerASR(
        tgt_vocab=6,
        input_size=16,
        d_model=16,
        nhead=2,
        num_encoder_layers=2,
        num_decoder_layers=0,
        d_ffn=16,
        dropout=0.0,
        encoder_module="conformer",
    )
    model = CTCModel(ConvFrontEnd1d(MELS, (16, 16), dropout=0.0), encoder, 6).train()

    def gradients(samples_BL: Tensor, share_B: Tensor) -> list[Tensor]:
        torch.manual_seed(SEED)
        features_BTF, lengths_B = features(samples_BL, share_B, 1)
        log_probs_BTV, frames_B = model(features_BTF, lengths_B)
        targets, log_probs_T1V = torch.tensor([[1, 2, 2, 5]]), log_probs_BTV[:1].transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs_T1V, targets, frames_B[:1], torch.tensor([4]))
        return list(torch.autograd.grad(loss, list(model.parameters())))

    own_1L, beside_2L = alone_and_beside(8317)
    alone = gradients(own_1L, torch.ones(1))
    beside = gradients(beside_2L, torch.tensor([1 / 3, 1.0]))
    assert all(gradient.abs().max() > 0 for gradient in alone)
    for one, other in zip(alone, beside, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


def test_evaluation_augments_nothing() -> None:
    samples_BL, share_B = torch.randn(2, 8000), torch.tensor([1.0, 0.7])
    augmenting = make(wav_augment=SpeedPerturbation([95]), fea_augment=SPEC_AUGMENT)
    want_BTF, want_B = make()(samples_BL, share_B, 1)
    got_BTF, got_B = augmenting.eval()(samples_BL, share_B, 1)
    assert torch.equal(got_BTF, want_BTF) and torch.equal(got_B, want_B)
    assert augmenting.train()(samples_BL, share_B, 1)[0].shape != want_BTF.shape


def test_features_are_float32_whatever_the_precision() -> None:
    """bf16 resampling and normalisation would leave 50 dB of the waveform."""
    features = make(wav_augment=SpeedPerturbation([95]), fea_augment=SPEC_AUGMENT)
    samples_BL, share_B = torch.randn(2, 8000), torch.tensor([1.0, 0.7])
    torch.manual_seed(0)
    want_BTF, _ = features(samples_BL, share_B, 1)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        got_BTF, _ = features(samples_BL, share_B, 1)
    assert got_BTF.dtype == torch.float32 and torch.equal(got_BTF, want_BTF)


def test_speechbrain_augmentations_leave_padding_empty() -> None:
    """White noise of SpeechBrain's, which it adds to padding too."""
    noise = Augmenter(augmentations=[AddNoise(snr_low=10, snr_high=10)])
    features = make("waveform", wav_augment=noise)
    samples_BL, share_B = torch.randn(2, 100), torch.tensor([1.0, 0.7])
    features_BL1, lengths_B = features(samples_BL, share_B, 1)
    assert lengths_B.tolist() == [100, 70] and (features_BL1[1, 70:] == 0).all()


def test_augmentations_that_make_more_utterances_are_refused() -> None:
    more = Augmenter(concat_original=True, augmentations=[AddNoise()])
    features = make("waveform", wav_augment=more)
    with pytest.raises(InputError, match="wav_augment makes 4 utterances of 2.*concat_original"):
        features(torch.randn(2, 100), torch.ones(2), 1)


def test_samples_are_normalised_over_the_utterance() -> None:
    features = make("waveform")
    samples_BL = torch.zeros(2, 1000)
    samples_BL[0], samples_BL[1, :400] = 3 + 2 * torch.randn(1000), torch.randn(400)
    features_BL1, frames_B = features(samples_BL, torch.tensor([1.0, 0.4]), 1)
    assert frames_B.tolist() == [1000, 400] and features_BL1.shape == (2, 1000, 1)
    for features_L1, length in zip(features_BL1, (1000, 400), strict=True):
        real_L1 = features_L1[:length]
        torch.testing.assert_close(real_L1.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(real_L1.std(correction=0), torch.tensor(1.0))
    assert (features_BL1[1, 400:] == 0).all()


class Louder(nn.Module):
    """An augmentation that normalisation takes out again."""

    def forward(self, x_BTF: Tensor, share_B: Tensor) -> tuple[Tensor, Tensor]:
        return 3 * x_BTF + 7, share_B


def test_features_can_be_augmented_before_they_are_normalised() -> None:
    samples_BL, share_B = torch.randn(2, 8000), torch.tensor([1.0, 0.5])
    plain_BTF, lengths_B = make()(samples_BL, share_B, 1)
    first_BTF, _ = make(fea_augment=Louder(), augment_first=True)(samples_BL, share_B, 1)
    torch.testing.assert_close(first_BTF, plain_BTF, rtol=1e-4, atol=1e-4)
    later_BTF, _ = make(fea_augment=Louder())(samples_BL, share_B, 1)
    length = int(lengths_B[1])
    torch.testing.assert_close(later_BTF[1, :length], 3 * plain_BTF[1, :length] + 7)


def test_copies_of_utterances_are_taken_where_targets_are_repeated() -> None:
    more = Augmenter(concat_original=True, augmentations=[AddNoise()])
    features = make("waveform", wav_augment=more, copies=True)
    features_BL1, lengths_B = features(torch.randn(2, 100), torch.tensor([1.0, 0.7]), 1)
    assert len(features_BL1) == 4 and lengths_B.tolist() == [100, 70, 100, 70]
