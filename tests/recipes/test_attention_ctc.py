"""The recipe of decoder and CTC: every YAML, searches, two processes, resuming, bad input."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from speechbrain import Stage

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.attention_ctc import AttentionCTCOutput
from summarymixing_modules.training.recipe.yaml_checks import read_recipe
from tests.ranks import load_script, run_on_two_ranks

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "ASR" / "transformer"
HPARAMS = RECIPE / "hparams"
YAMLS = sorted(HPARAMS.glob("*.yaml"))
SMALL = HPARAMS / "small_conformer.yaml"
RunRecipe = Callable[..., dict[str, Any]]

CHARACTERS = ["--token_type=librispeech_char", "--output_neurons=31"]
TINY = [
    *CHARACTERS,
    "--num_encoder_layers=1",
    "--num_decoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--decoder_nhead=2",
    "--d_ffn=32",
    "--cnn_channels=[4, 4]",
    "--num_workers=0",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--test_beam_size=2",
    "--max_decode_ratio=0.2",
    "--train_splits=[train-clean-100]",
    "--test_splits=[test-clean]",
]


def tiny(hparams: Path) -> list[str]:
    tree = read_recipe(hparams).tree
    sizes = {"csgu_linear_units": 32, "kernel_size": 7, "alpha": 0.05}
    return [*TINY, *(f"--{key}={value}" for key, value in sizes.items() if key in tree)]


def without(options: list[str], *given: str) -> list[str]:
    """The options, those that are given otherwise replaced."""
    names = {option.split("=")[0] for option in given}
    return [*(option for option in options if option.split("=")[0] not in names), *given]


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_decodes_and_reports(
    hparams: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    result = run_recipe(hparams, *tiny(hparams), "--debug")
    assert 0 <= result["test_wer"] and result["optimizer_steps"] > 0
    assert 0 <= result["metrics"]["test-clean_acc"] <= 100
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text())["test_wer"] == result["test_wer"]
    assert (folder / "curves.png").stat().st_size > 10_000
    assert "WER" in (folder / "wer_test-clean.txt").read_text()
    assert "base:" not in (folder / "hyperparams.yaml").read_text()


def model_of(hparams: Path, more: str = "") -> torch.nn.Module:
    """The model of a YAML file, without memory."""
    tree = YAML().load(resolve_references(read_recipe(hparams).text(), f"data_folder: x\n{more}"))
    text = io.StringIO()
    YAML().dump({"model": tree["model"]}, text)
    with torch.device("meta"):
        return load_hyperpyyaml(text.getvalue())["model"]


SIZES = [  # millions of parameters of the whole model: the paper's, and those that we state
    ("branchformer", "", 119.3),
    ("branchformer", "attention_type: RelPosMHAXL\nnhead: 8", 109.8),
    ("branchformer_lite", "", 100.4),
    ("branchformer_cnnonly", "", 76.8),
    ("branchformer_summary_decoder", "", 117.0),
    ("conformer", "", 101.3),
    ("conformer", "attention_type: RelPosMHAXL", 109.1),
    ("contextnet", "", 78.0),
    ("contextnet", "alpha: 2", 172.4),
    ("small_conformer", "", 3.65),
    ("transformer", "", 153.8),
]


@pytest.mark.parametrize(("name", "more", "millions"), SIZES)
def test_every_yaml_has_its_stated_size(name: str, more: str, millions: float) -> None:
    model = model_of(HPARAMS / f"{name}.yaml", more)
    found = sum(p.numel() for p in model.parameters()) / 1e6
    assert abs(found / millions - 1) < 0.005
    assert f"{millions}M" in (HPARAMS / f"{name}.yaml").read_text()


def test_sizes_are_stated_for_every_yaml() -> None:
    assert {name for name, _, _ in SIZES} == {path.stem for path in YAMLS}


def test_learns_its_training_sentences(run_recipe: RunRecipe, corpus: Path, tmp_path: Path) -> None:
    """The whole chain from FLAC to WER, with a search that asks decoder and CTC."""
    heard = tmp_path / "LibriSpeech"
    for index, split in enumerate(("train-clean-100", "dev-clean", "test-clean")):
        copy_split(corpus / "LibriSpeech" / "test-clean", heard / split, str(index))
    options = [
        f"--data_folder={heard}",
        *CHARACTERS,
        "--num_encoder_layers=2",
        "--num_decoder_layers=1",
        "--d_model=64",
        "--d_ffn=128",
        "--cnn_channels=[64, 64]",
        "--label_smoothing=0.0",
        "--training_steps=200",
        "--warmup_steps=20",
        "--sorting=ascending",
        "--avg_checkpoints=1",
        "--valid_search_interval=1000",
    ]
    for search in (["--test_beam_size=8"], ["--test_beam_size=1", "--test_only"]):
        result = run_recipe(SMALL, *options, *search)
        assert result["test_wer"] < 10 and result["metrics"]["test-clean_acc"] > 95


def copy_split(source: Path, target: Path, suffix: str) -> None:
    """A copy of a split under other names of speakers and utterances."""
    for path in source.rglob("*.*"):
        speaker, chapter = path.relative_to(source).parts[:2]
        new = f"{speaker}{suffix}"
        destination = target / new / chapter / path.name.replace(f"{speaker}-", f"{new}-", 1)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            destination.write_text(path.read_text().replace(f"{speaker}-", f"{new}-"))
        else:
            shutil.copy(path, destination)


def test_streaming_training_bfloat16_and_accumulation(run_recipe: RunRecipe) -> None:
    options = ["--streaming=True", "--chunkwise_prob=1.0", "--precision=bf16"]
    options += ["--training_steps=2", "--grad_accumulation_factor=2"]
    result = run_recipe(SMALL, *tiny(SMALL), *options)
    assert result["precision"] == "bf16" and result["optimizer_steps"] == 2
    assert np.isfinite(result["metrics"]["test-clean_loss"])


def test_a_search_while_validating(run_recipe: RunRecipe, tmp_path: Path) -> None:
    """Every second epoch; the others have the accuracy of the decoder."""
    options = ["--valid_search_interval=2", "--valid_beam_size=2", "--number_of_epochs=3"]
    run_recipe(SMALL, *tiny(SMALL), *options, "--debug", "--debug_epochs=3")
    log = (tmp_path / "run" / "train_log.txt").read_text().splitlines()
    assert len(log) == 3 and all("valid ACC" in line for line in log)
    assert ["valid WER" in line for line in log] == [False, True, False]


def test_two_processes(corpus: Path, tmp_path: Path) -> None:
    options = [*tiny(SMALL), f"--data_folder={corpus}", "--training_steps=2"]
    assert run_on_two_ranks(SMALL, tmp_path / "run", *options)["optimizer_steps"] == 2


def test_a_checkpoint_of_another_decoder_is_told(run_recipe: RunRecipe) -> None:
    run_recipe(SMALL, *tiny(SMALL), "--training_steps=1")
    options = ["--training_steps=1", "--decoder_attention=SummaryMixing"]
    with pytest.raises(InputError, match="decoder_attention"):
        run_recipe(SMALL, *tiny(SMALL), *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decoder_attention=fastformer"], "(?i)fastformer.*causal"),
        (["--output_neurons=29"], "--output_neurons.*31"),
        (["--lm_folder=/nowhere"], "--lm_folder /nowhere: no such folder.*recipes/LibriSpeech/LM"),
    ],
)
def test_bad_flags_are_told(options: list[str], message: str, run_recipe: RunRecipe) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        run_recipe(SMALL, *without(tiny(SMALL), *options), "--debug")


def test_an_ngram_is_refused(run_recipe: RunRecipe, tmp_path: Path) -> None:
    for folder, name in ((tmp_path, "4-gram.arpa"), (tmp_path / "lm", "3-gram.bin")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("")
    for given in (tmp_path / "4-gram.arpa", tmp_path / "lm"):
        with pytest.raises(InputError, match="looks like an n-gram, which this search cannot use"):
            run_recipe(SMALL, *tiny(SMALL), f"--lm_folder={given}", "--debug")


def test_a_greedy_search_asks_no_language_model(run_recipe: RunRecipe, tmp_path: Path) -> None:
    options = without(tiny(SMALL), "--test_beam_size=1", f"--lm_folder={tmp_path}")
    with pytest.raises(InputError, match="--test_beam_size=1 must be above 1.*lm_folder"):
        run_recipe(SMALL, *options, "--debug")


def test_no_key_means_nothing(run_recipe: RunRecipe, tmp_path: Path) -> None:
    """Every key of a base is read by something, in its variants, too."""
    variant = HPARAMS / "branchformer_lite.yaml"
    moved = tmp_path / "recipe" / "hparams"
    shutil.copytree(HPARAMS, moved)
    shutil.copy(RECIPE / "train.py", moved.parent)
    text = re.sub(r"mode: .*", "mood: x", variant.read_text())
    (moved / variant.name).write_text(text)
    with pytest.raises(InputError, match="the key 'mood' .*branchformer_lite.yaml.* mean mode"):
        run_recipe(moved / variant.name, "--debug")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_an_utterance_is_the_same_alone(smoothing: float) -> None:
    """Lengths at which shares of a length are not exact."""
    objectives = load_script(RECIPE / "train.py").AttentionCTCBrain.compute_objectives
    torch.manual_seed(0)
    frames, tokens, vocabulary = [97, 61], [37, 23], 13
    ctc_BTV = torch.randn(2, 97, vocabulary).log_softmax(-1)
    seq_BUV = torch.randn(2, 38, vocabulary).log_softmax(-1)
    tokens_BU = torch.randint(3, vocabulary, (2, 37))
    tokens_BU[1, 23:] = 0
    eos_BU = torch.cat([tokens_BU, torch.zeros(2, 1, dtype=torch.long)], 1)
    eos_BU[[0, 1], tokens] = 2

    def loss(rows: list[int]) -> torch.Tensor:
        t, u = max(frames[i] for i in rows), max(tokens[i] for i in rows)
        lengths_B = torch.tensor([frames[i] for i in rows])
        output = AttentionCTCOutput(
            ctc_BTV[rows, :t], seq_BUV[rows, : u + 1], torch.zeros(0), lengths_B
        )
        share_B = torch.tensor([tokens[i] / u for i in rows])
        batch = SimpleNamespace(
            tokens=(tokens_BU[rows, :u], share_B),
            tokens_eos=SimpleNamespace(data=eos_BU[rows, : u + 1]),
        )
        hparams = SimpleNamespace(ctc_weight=0.3, label_smoothing=smoothing)
        brain = SimpleNamespace(hparams=hparams, scores={})
        return objectives(brain, output, batch, Stage.TRAIN)

    torch.testing.assert_close(loss([0, 1]), (loss([0]) + loss([1])) / 2, atol=1e-5, rtol=1e-5)
