"""Encoders of Hugging Face, from a local folder; most of it needs the package transformers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.encoder import frozen_encoder, is_huggingface, tuned_encoder
from summarymixing_modules.probing.huggingface import HuggingFaceEncoder


def test_folders_of_hugging_face_are_told_from_bundles(tmp_path: Path) -> None:
    assert not is_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": {"class": "AcousticEncoder"}}))
    assert not is_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    assert is_huggingface(tmp_path)
    with pytest.raises(InputError, match="--encoder=.*nowhere: no such folder"):
        frozen_encoder(tmp_path / "nowhere")


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is not None, reason="transformers is installed"
)
def test_the_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    with pytest.raises(InputError, match="pip install transformers"):
        frozen_encoder(tmp_path)


def save_encoder(kind: str, norm: str, folder: Path) -> None:
    """A small model of transformers, drawn anew."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_every_layer_and_no_padding(kind: str, norm: str, tmp_path: Path) -> None:
    save_encoder(kind, norm, tmp_path)
    encoder = frozen_encoder(tmp_path)
    assert isinstance(encoder.encoder, HuggingFaceEncoder)
    assert (encoder.num_states, encoder.state_size) == (4, 16)
    samples_BL, lengths_B = torch.randn(2, 4000), torch.tensor([4000, 2500])
    samples_BL[1, 2500:] = 0.0
    together = encoder(samples_BL, lengths_B)
    for row, length in enumerate(lengths_B.tolist()):
        alone = encoder(samples_BL[row : row + 1, :length], lengths_B[row : row + 1])
        frames = int(alone.lengths_B)
        assert frames == int(together.lengths_B[row]) == alone.states[0].shape[1]
        for state_BTD, alone_BTD in zip(together.states, alone.states, strict=True):
            torch.testing.assert_close(state_BTD[row, :frames], alone_BTD[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_tuned_one_is_left_to_be_read(norm: str, tmp_path: Path) -> None:
    save_encoder("Wav2Vec2", norm, tmp_path)
    settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    encoder = tuned_encoder(tmp_path).train()
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(20):  # a dropped layer would have no gradient
        optimizer.zero_grad(set_to_none=True)
        hidden = encoder(torch.randn(2, 4000), torch.tensor([4000, 2500]))
        sum(state.square().mean() for state in hidden.states).backward()
        assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())
    optimizer.step()
    encoder.save(tmp_path / "run" / "encoder", "a task", {})
    again = frozen_encoder(tmp_path / "run")
    assert again.digest() == encoder.digest() != frozen_encoder(tmp_path).digest()
    assert isinstance(again.encoder, HuggingFaceEncoder) and not again.encoder.normalises


def test_other_models_are_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.BertConfig(hidden_size=16, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'bert' is no encoder of speech"):
        frozen_encoder(tmp_path)
