"""Trainings with noise, rooms and other voices; in pre-training, targets know nothing of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.recipes.tiny import TINY_SIZES, built, flags_for

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "LibriSpeech"
CTC = RECIPES / "ASR/CTC/hparams/small_conformer.yaml"
BEST_RQ, WAV2VEC2 = (RECIPES / f"SSL/{name}/hparams/small.yaml" for name in ("BEST-RQ", "wav2vec2"))
TINY = TINY_SIZES | {"num_buckets": 2, "max_batch_length": 20, "avoid_if_shorter_than": 0.5}
TINY |= {"codes": 32, "code_dim": 8, "comparison_dim": 8, "negatives": 10}
RunRecipe = Callable[..., dict[str, Any]]


@pytest.fixture
def around(tmp_path: Path) -> dict[str, Any]:
    """Flags for noise and a room."""
    draw = np.random.default_rng(0)
    (tmp_path / "noises").mkdir()
    soundfile.write(tmp_path / "noises" / "a.wav", draw.standard_normal(9000) / 9, 8000)
    soundfile.write(tmp_path / "room.wav", np.array([0, 0.9, 0, 0.3]), 16000)
    (tmp_path / "rooms.csv").write_text("path\nroom.wav\n")
    folders = {"noise_manifest": tmp_path / "noises", "rir_manifest": tmp_path / "rooms.csv"}
    return {**folders, "noise_prob": 0.7, "rir_prob": 0.5}


@pytest.mark.parametrize("hparams", [CTC, BEST_RQ, WAV2VEC2], ids=lambda path: path.parts[-3])
def test_recipes_train_among_noise(
    hparams: Path, around: dict[str, Any], run_recipe: RunRecipe
) -> None:
    tiny = dict(TINY)
    if hparams == WAV2VEC2:
        del tiny["cnn_channels"]
    more = {} if hparams == CTC else {"mixing_prob": 0.5}
    result = run_recipe(hparams, *flags_for(hparams, tiny, **more, **around), "--debug")
    assert result["optimizer_steps"] > 0 and result["skipped_steps"] == 0


@pytest.mark.parametrize("hparams", [BEST_RQ, WAV2VEC2], ids=lambda path: path.parts[-3])
def test_targets_are_of_the_clean_features(hparams: Path, tmp_path: Path) -> None:
    given = f"data_folder: x\noutput_folder: {tmp_path}\nnum_encoder_layers: 1\n"
    model = built(hparams, given)["model"].eval()
    torch.manual_seed(0)
    heard, clean, lengths_B = torch.randn(2, 80, 80), torch.randn(2, 80, 80), torch.tensor([80, 64])
    outputs = []
    for features, target in ((heard, clean), (clean, None), (heard, None), (heard, heard)):
        torch.manual_seed(1)
        outputs.append(model(features, lengths_B, clean_BTF=target))
    both, of_clean, of_heard, same = outputs
    codes = "codes_MQ" if hparams == BEST_RQ else "codes_MG"
    assert torch.equal(getattr(both, codes), getattr(of_clean, codes))
    assert not torch.equal(getattr(both, codes), getattr(of_heard, codes))
    torch.testing.assert_close(same.loss, of_heard.loss)
    assert not torch.allclose(both.loss, of_clean.loss), "the encoder hears the other ones"
