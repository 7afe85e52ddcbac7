"""The recipes for Common Voice and AISHELL-1: every YAML, on small trees in their layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.training.run.averaging import ranking_of
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer
from tests.recipes.tiny import TINY_SIZES, flags_for

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MANDARIN = sorted(RECIPES.glob("AISHELL-1/**/*.yaml"))
VOICES = sorted(RECIPES.glob("CommonVoice/**/*.yaml"))
RunRecipe = Callable[..., dict[str, Any]]

TINY = TINY_SIZES | {
    "max_batch_length": 20,
    "num_buckets": 2,
    "token_type": "char",
    "merge_width": 8,
    "local_proj_hid_dim": "[8]",
    "summary_hid_dim": "[8]",
    "valid_beam_size": 2,
    "test_beam_size": 2,
    "max_decode_ratio": 0.2,
    "grad_accumulation_factor": 1,
}
SENTENCES = ("un deux", "trois quatre", "cinq, six !")


def noise(seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(16000)


@pytest.fixture(scope="module")
def aishell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, lines = tmp_path_factory.mktemp("aishell") / "data_aishell", []
    for split, speaker in (("train", "S0001"), ("dev", "S0002"), ("test", "S0003")):
        folder = root / "wav" / split / speaker
        folder.mkdir(parents=True)
        for number in range(4):
            name = f"BAC009{speaker}W000{number}"
            soundfile.write(folder / f"{name}.wav", noise(number), 16000)
            lines.append(f"{name} 今天 天气 {'好' * (1 + number)}")
    (root / "transcript").mkdir()
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with every language of the YAML files; the same sentences in all."""
    root = tmp_path_factory.mktemp("voices") / "cv-corpus-11.0-2022-09-21"
    for language in ("fr", "it", "nl", "cy", "eu"):
        (root / language / "clips").mkdir(parents=True)
        for split in ("train", "dev", "test"):
            rows = ["client_id\tpath\tsentence"]
            for number, sentence in enumerate(SENTENCES):
                name = f"{split}{number}.mp3"
                clip = root / language / "clips" / name
                soundfile.write(clip, noise(number), 32000, format="MP3")
                rows.append(f"{'c' * 128}\t{name}\t{sentence}")
            (root / language / f"{split}.tsv").write_text("\n".join(rows))
    return root


@pytest.mark.parametrize("hparams", MANDARIN, ids=lambda path: path.stem)
def test_mandarin_is_scored_by_characters(
    hparams: Path, aishell: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    result = run_recipe(
        hparams, *flags_for(hparams, TINY, data_folder=aishell, output_neurons=7), "--debug"
    )
    assert result["test_cer"] == result["metrics"]["dev_cer"] and "test_cer" in result["metrics"]
    assert not [name for name in (*result, *result["metrics"]) if name.endswith("wer")]
    assert set(result["intervals"]) == {"dev_cer", "test_cer"}
    assert (tmp_path / "run" / "cer_test.txt").is_file()


def test_checkpoints_are_ranked_by_characters(
    aishell: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    """With a recipe that ranks them by words elsewhere."""
    ctc = RECIPES / "LibriSpeech/ASR/CTC/hparams/small_conformer.yaml"
    splits = ["--train_splits=[train]", "--dev_splits=[dev]", "--test_splits=[test]"]
    tiny = flags_for(ctc, TINY, data_folder=aishell, corpus="aishell1", output_neurons=5)
    result = run_recipe(ctc, *tiny, *splits, "--training_steps=2", "--warmup_steps=1")
    assert result["test_cer"] == result["metrics"]["test_cer"]
    checkpointer = AtomicCheckpointer(tmp_path / "run" / "save", {})
    assert ranking_of(checkpointer) == {"min_key": "CER"}


@pytest.mark.parametrize("hparams", VOICES, ids=lambda path: path.stem)
def test_every_language_trains_and_decodes(
    hparams: Path, voices: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    clips = {"clips_folder": tmp_path / "clips", "data_folder": voices, "output_neurons": 17}
    result = run_recipe(hparams, *flags_for(hparams, TINY, **clips), "--debug")
    assert result["optimizer_steps"] > 0 and result["test_utterances"] == {"test": 2}
    assert "test_wer" in result and "test_cer" not in result
    assert "CINQ SIX" in (next((tmp_path / "run" / "save").glob("cv_*_train.csv"))).read_text()
