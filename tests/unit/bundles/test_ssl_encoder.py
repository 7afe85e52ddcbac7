"""`SSLEncoder`: hidden states of every layer, the same in and out of a batch, frozen or trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

from summarymixing_modules.bundles import SSLEncoder
from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.features import (
    NORMALIZE_SETTINGS,
    feature_settings,
    statistics_of,
)
from summarymixing_modules.bundles.kinds import describe_encoder
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import mixer_names
from summarymixing_modules.models import AttentionCTCModel, ConvFrontEnd1d, TransformerASR
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.describe import describe
from summarymixing_modules.models.features.valid_frontend import ValidConvFrontEnd, Waveform
from summarymixing_modules.models.ssl.best_rq import BestRQModel

SIZE: dict[str, Any] = {"d_model": 8, "nhead": 2, "num_encoder_layers": 3, "d_ffn": 16}
LENGTHS_B = torch.tensor([8000, 4321, 5600])


def transformer(**options: Any) -> TransformerASR:
    arguments = {"num_decoder_layers": 0, "kernel_size": 3, "dropout": 0.3, **SIZE, **options}
    return TransformerASR(29, 8, **arguments)


def save(
    folder: Path, model: nn.Module, features: nn.Module | None = None, norm_type: str = "global"
) -> Path:
    """A bundle of a model: a recogniser if it is described whole, else of its encoder."""
    given = {"n_mels": 20, "n_fft": 400}
    features = features or Fbank(**given)
    normalize = InputNormalization(norm_type=norm_type, avoid_padding_norm=True)
    frames_BTF = features(torch.randn(2, 8000) / 10)
    normalize(frames_BTF, torch.ones(2), epoch=0)
    described = describe_encoder(model) if type(model) is BestRQModel else describe(model)
    recogniser = described["class"] == "AttentionCTCModel"
    kept = {n: t for n, t in model.state_dict().items() if recogniser or n.split(".")[0] in PARTS}
    tensors = {f"model.{name}": tensor.clone() for name, tensor in kept.items()}
    tensors |= {f"normalize.{name}": value for name, value in statistics_of(normalize).items()}
    config = {
        "kind": "recogniser" if recogniser else "encoder",
        "summarymixing_modules": "0.1.0",
        "sample_rate": 16000,
        "attention_type": "SummaryMixing",
        "mode": "SummaryMixing",
        "trained_as": type(model).__name__,
        "streaming": False,
        "tokenizer": "characters",
        "averaged_checkpoints": 1,
        "features": feature_settings(features, given),
        "normalize": {name: getattr(normalize, name) for name in NORMALIZE_SETTINGS},
        "model": described,
    }
    tokenizer = CharTokenizer(bos_eos=True) if recogniser else None
    write_bundle(RunContent(config, tensors, tokenizer, {}), folder)
    return folder


PARTS = ("frontend", "transformer")


@pytest.fixture
def model() -> BestRQModel:
    torch.manual_seed(0)
    return BestRQModel(ConvFrontEnd1d(20, (8, 8)), transformer(layerdrop_prob=0.5), n_mels=20)


@pytest.fixture
def encoder(model: BestRQModel, tmp_path: Path) -> SSLEncoder:
    return SSLEncoder.from_bundle(save(tmp_path / "encoder", model))


@pytest.fixture
def samples_BL() -> Tensor:
    samples_BL = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1)) / 10
    for row_L, length in zip(samples_BL, LENGTHS_B, strict=True):
        row_L[length:] = 0
    return samples_BL


def test_hidden_states_are_those_of_the_model(
    model: BestRQModel, encoder: SSLEncoder, samples_BL: Tensor
) -> None:
    assert not encoder.training and isinstance(encoder.encoder, AcousticEncoder)
    with torch.inference_mode():
        hidden = encoder(samples_BL, LENGTHS_B)
        x_BTF, frames_B = encoder.acoustics.acoustic_features(samples_BL, LENGTHS_B)
        expected_BTD, lengths_B = model.eval().encode(x_BTF, frames_B)
        inputs_BTD = model.transformer.embed(model.frontend(x_BTF, frames_B)[0], 0)
        norm_BTD = encoder.encoder.transformer.encoder.norm(hidden.states[-1])
    assert torch.equal(hidden.output_BTD, expected_BTD)
    assert hidden.lengths_B.tolist() == lengths_B.tolist() == [13, 7, 9]
    assert len(hidden.states) == 4 and torch.equal(hidden.states[0], inputs_BTD)
    assert torch.equal(norm_BTD, hidden.output_BTD)
    assert encoder.output_size == 8 and encoder.sample_rate == 16000


@pytest.mark.parametrize("name", mixer_names())
def test_padding_changes_nothing(name: str, tmp_path: Path, samples_BL: Tensor) -> None:
    frontend = ConvFrontEnd1d(20, (8, 8))
    one = BestRQModel(frontend, transformer(attention_type=name), n_mels=20)
    encoder = SSLEncoder.from_bundle(save(tmp_path / "encoder", one), attention_type=name)
    assert_alone_equals_batch(encoder, samples_BL)


@torch.inference_mode()
def assert_alone_equals_batch(encoder: SSLEncoder, samples_BL: Tensor) -> None:
    batch = encoder(samples_BL, LENGTHS_B)
    for row, length in enumerate(LENGTHS_B.tolist()):
        alone = encoder(samples_BL[row : row + 1, :length], torch.tensor([length]))
        frames = int(alone.lengths_B)
        assert frames == int(batch.lengths_B[row])
        pairs = zip(
            (*alone.states, alone.output_BTD), (*batch.states, batch.output_BTD), strict=True
        )
        for mine_BTD, theirs_BTD in pairs:
            torch.testing.assert_close(
                mine_BTD[0, :frames], theirs_BTD[row, :frames], rtol=1e-4, atol=1e-4
            )


def test_samples_as_features(tmp_path: Path, samples_BL: Tensor) -> None:
    frontend = ValidConvFrontEnd(1, 8, (10, 3, 3, 3, 3), (5, 2, 2, 2, 2))
    encoder = AcousticEncoder(frontend, transformer())
    path = save(tmp_path / "encoder", encoder, Waveform(), "sentence")
    assert_alone_equals_batch(SSLEncoder.from_bundle(path), samples_BL)


def test_features_never_change_and_a_frozen_encoder_neither(
    encoder: SSLEncoder, samples_BL: Tensor
) -> None:
    head = nn.Linear(8, 2)
    parent = nn.ModuleList([encoder, head])
    before = copy.deepcopy(encoder.state_dict())
    assert "normalize.glob_mean" in before
    parent.train()
    assert encoder.encoder.training and not encoder.normalize.training
    encoder(samples_BL, LENGTHS_B)
    assert torch.equal(encoder.normalize.glob_mean, before["normalize.glob_mean"])
    encoder.freeze()
    parent.train()
    assert parent.training and not any(module.training for module in encoder.modules())
    optimizer = torch.optim.AdamW(parent.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        hidden = encoder(samples_BL, LENGTHS_B)
        head(hidden.output_BTD).sum().backward()
        optimizer.step()
    assert not hidden.output_BTD.requires_grad
    assert all(torch.equal(t, before[n]) for n, t in encoder.state_dict().items())


def test_training_reaches_all_layers_and_keeps_all_states(
    encoder: SSLEncoder, samples_BL: Tensor
) -> None:
    encoder.train()  # layer drop of the model: 0.5
    for _ in range(5):
        hidden = encoder(samples_BL, LENGTHS_B)
        assert len(hidden.states) == 4
    sum(state.sum() for state in (*hidden.states, hidden.output_BTD)).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert encoder.encoder.transformer.encoder.layerdrop_prob == 0.5


@pytest.fixture
def process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_trains_every_layer(
    process_group: None, encoder: SSLEncoder, samples_BL: Tensor
) -> None:
    """In the second step, too, which fails if a parameter had no gradient in the first."""
    alone = copy.deepcopy(encoder).train()
    wrapped = nn.parallel.DistributedDataParallel(encoder.train())
    for step in range(2):
        for each in (alone, wrapped):
            torch.manual_seed(step)
            each.zero_grad()
            each(samples_BL, LENGTHS_B).output_BTD.square().sum().backward()
        for got, want in zip(wrapped.parameters(), alone.parameters(), strict=True):
            assert got.grad is not None and got.grad.any() and torch.equal(got.grad, want.grad)


def test_it_moves_and_saves_as_any_module(encoder: SSLEncoder, model: BestRQModel) -> None:
    double = copy.deepcopy(encoder).double()
    assert double.normalize.glob_mean.dtype == torch.float64
    other = encoder.untrained_copy()
    other.load_state_dict(encoder.state_dict())
    assert all(torch.equal(t, encoder.state_dict()[n]) for n, t in other.state_dict().items())


def test_an_untrained_copy_has_the_statistics_and_other_weights(encoder: SSLEncoder) -> None:
    torch.manual_seed(5)
    fresh = encoder.freeze().untrained_copy()
    assert fresh.architecture == encoder.architecture and not fresh.frozen
    assert torch.equal(fresh.normalize.glob_std, encoder.normalize.glob_std)
    weights = encoder.state_dict()
    matrices = [n for n, t in weights.items() if t.dim() > 1 and n.endswith("weight")]
    assert matrices and not any(torch.equal(fresh.state_dict()[n], weights[n]) for n in matrices)
    assert all(parameter.requires_grad for parameter in fresh.parameters())


def test_a_recogniser_has_an_encoder(tmp_path: Path, samples_BL: Tensor) -> None:
    frontend, host = ConvFrontEnd1d(20, (8, 8)), transformer(num_decoder_layers=1)
    recogniser = AttentionCTCModel(frontend, host, 31).eval()
    encoder = SSLEncoder.from_bundle(save(tmp_path / "recogniser", recogniser))
    assert not [name for name in encoder.state_dict() if "decoder" in name or "output" in name]
    with torch.inference_mode():
        x_BTF, frames_B = encoder.acoustics.acoustic_features(samples_BL, LENGTHS_B)
        expected_BTD, _ = recogniser.encode(x_BTF, frames_B)
        assert torch.equal(encoder(samples_BL, LENGTHS_B).output_BTD, expected_BTD)


def test_other_encoders_than_expected_are_named(encoder: SSLEncoder, tmp_path: Path) -> None:
    path = tmp_path / "encoder"
    expected = {"attention_type": "SummaryMixing", "d_model": 8, "mode": "SummaryMixing"}
    assert SSLEncoder.from_bundle(path, **expected).architecture.items() >= expected.items()
    for key, value in (("attention_type", "RoPEMHA"), ("d_model", 512), ("mode", None)):
        has = f"has {key} {encoder.architecture[key]}, but {key} {value} is expected"
        with pytest.raises(InputError, match=has):
            SSLEncoder.from_bundle(path, **{key: value})
    with pytest.raises(InputError, match="no d_modle, only encoder_module"):
        SSLEncoder.from_bundle(path, d_modle=8)


@pytest.mark.parametrize(
    ("lengths_B", "message"),
    [
        (torch.tensor([1.0, 0.5, 0.7]), "torch.float32.*shares"),
        (torch.tensor([1, 0, 1]), r"from 1 to 8000"),
        (torch.tensor([8000, 9000, 10]), r"from 1 to 8000"),
        (torch.tensor([8000]), r"\(B, L\) and \(B,\)"),
    ],
)
def test_lengths_are_samples(
    lengths_B: Tensor, message: str, encoder: SSLEncoder, samples_BL: Tensor
) -> None:
    with pytest.raises(InputError, match=message):
        encoder(samples_BL, lengths_B)


def test_an_encoder_with_ways_of_its_own_is_refused() -> None:
    class Own(AcousticEncoder):
        def encode(self, *arguments: Any) -> tuple[Tensor, Tensor]:
            x_BTD, lengths_B = super().encode(*arguments)
            return 2 * x_BTD, lengths_B

    with pytest.raises(InputError, match="Own encodes in a way of its own"):
        describe_encoder(Own(ConvFrontEnd1d(20, (8, 8)), transformer()))
    with pytest.raises(InputError, match="Linear has no encoder"):
        describe_encoder(nn.Linear(1, 1))
