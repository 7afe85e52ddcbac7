"""From pre-training to an encoder, and from there to a recogniser that transcribes."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from speechbrain.inference.ASR import EncoderASR

from summarymixing_modules.bundles import SSLEncoder, export_bundle, load_bundle, load_model
from summarymixing_modules.bundles.run import read_run
from summarymixing_modules.cli import main
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.errors import InputError
from tests.ranks import run_on_two_ranks

ROOT = Path(__file__).resolve().parents[2]
SSL = ROOT / "recipes" / "LibriSpeech" / "SSL"
HPARAMS = SSL / "fine-tuning" / "hparams"
SMALL = HPARAMS / "small.yaml"
YAMLS = sorted(HPARAMS.glob("*.yaml"))
RunRecipe = Callable[..., dict[str, Any]]

PRETRAIN = [
    "--num_encoder_layers=2",
    "--d_model=16",
    "--nhead=2",
    "--d_ffn=32",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--codes=32",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--avoid_if_shorter_than=0.5",
    "--warmup_steps=2",
    "--training_steps=2",
]
TINY = [
    "--train_splits=[train-clean-100]",
    "--test_splits=[test-clean]",
    "--num_workers=0",
    "--prep_workers=1",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--head_size=12",
]
FEW = [*TINY, "--training_steps=2", "--warmup_steps=1"]


def pretrain(corpus: Path, folder: Path, *options: str) -> Path:
    """A run of BEST-RQ."""
    recipe = SSL / "BEST-RQ"
    argv = [str(recipe / "hparams" / "small.yaml"), f"--data_folder={corpus}"]
    argv += [f"--output_folder={folder}", "--device=cpu", "--noprogressbar", *PRETRAIN, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(recipe / "train.py"), *argv])
        runpy.run_path(str(recipe / "train.py"))["main"](argv)
    return folder


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a pre-training."""
    return pretrain(corpus, tmp_path_factory.mktemp("pretrained") / "run")


@pytest.fixture(scope="module")
def encoder(pretrained: Path) -> Path:
    """The bundle of its encoder."""
    return export_bundle(pretrained, pretrained.parent / "encoder")


@pytest.fixture(scope="module")
def other(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of an encoder with another mixer."""
    folder = tmp_path_factory.mktemp("other")
    run = pretrain(corpus, folder / "run", "--attention_type=RoPEMHA")
    return export_bundle(run, folder / "rope")


@pytest.fixture
def speech(corpus: Path) -> list[Path]:
    return sorted((corpus / "LibriSpeech" / "test-clean").rglob("*.flac"))


def test_the_bundle_says_what_the_run_computes(pretrained: Path, encoder: Path) -> None:
    config = json.loads((encoder / "config.json").read_text())
    assert config["kind"] == "encoder" and config["trained_as"] == "BestRQModel"
    card = (encoder / "README.md").read_text()
    accuracy = json.loads((pretrained / "result.json").read_text())["metrics"]["valid_accuracy"]
    assert f"| valid_accuracy | {accuracy:.4g} |" in card
    checkpoint = next((pretrained / "save").glob("CKPT*"))
    trained = torch.load(checkpoint / "model.ckpt", weights_only=True)
    from_bundle, from_run = SSLEncoder.from_bundle(encoder), SSLEncoder.from_run(pretrained)
    for one in (from_bundle, from_run):
        for name, tensor in one.encoder.state_dict().items():
            assert torch.equal(tensor, trained[name])
        statistics = torch.load(checkpoint / "normalize.ckpt", weights_only=True)
        assert torch.equal(one.normalize.glob_mean, statistics["glob_mean"])
    with pytest.raises(InputError, match="pre-trained encoder"):
        load_model(pretrained, trust_run=True)


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_from_encoder_to_text(
    hparams: Path,
    encoder: Path,
    run_recipe: RunRecipe,
    speech: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--number_of_epochs=1"] if hparams.stem == "base" else FEW[-2:]
    result = run_recipe(hparams, f"--encoder={encoder}", *TINY, *options)
    assert result["optimizer_steps"] > 0 and np.isfinite(result["metrics"]["test-clean_loss"])
    assert result["architecture"]["attention_type"] == "SummaryMixing"
    assert result["encoder"]["path"] == str(encoder) and len(result["encoder"]["weights"]) == 64
    run = Path(shutil.move(tmp_path / "run", tmp_path / "moved"))
    bundle = export_bundle(run, tmp_path / "bundle", speechbrain=True)
    loaded = load_bundle(bundle)
    assert torch.equal(
        loaded.normalize.glob_mean, SSLEncoder.from_bundle(encoder).normalize.glob_mean
    )
    capsys.readouterr()
    assert main(["transcribe", str(speech[0]), "--model", str(bundle)]) == 0
    text = capsys.readouterr().out.splitlines()[-1]  # after what is logged
    assert main(["transcribe", str(speech[0]), "--model", str(run), "--trust_run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == text
    monkeypatch.chdir(tmp_path)
    theirs = EncoderASR.from_hparams(source=str(bundle), savedir=str(tmp_path / "cache"))
    assert theirs.transcribe_file(str(speech[0])).strip() == text
    assert SSLEncoder.from_bundle(bundle).architecture["d_model"] == 16


def test_a_frozen_encoder_stays_bit_identical(
    encoder: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    result = run_recipe(SMALL, f"--encoder={encoder}", *FEW, "--freeze_encoder=True")
    assert result["parameters"]["trainable"] < result["parameters"]["total"]
    tuned, start = SSLEncoder.from_run(tmp_path / "run"), SSLEncoder.from_bundle(encoder)
    before = start.state_dict()
    assert all(torch.equal(t, before[n]) for n, t in tuned.state_dict().items())
    checkpoint = next((tmp_path / "run" / "save").glob("CKPT*"))
    assert not (checkpoint / "encoder_optimizer.ckpt").exists()


def test_trained_and_from_scratch_differ_in_the_weights_only(
    encoder: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    before = SSLEncoder.from_bundle(encoder).state_dict()
    far: dict[str, float] = {}
    for name, options in (
        ("tuned", ["--encoder_lr=1.0e-5"]),
        ("scratch", ["--from_scratch=True", "--encoder_lr=1.0e-5"]),
    ):
        folder = f"--output_folder={tmp_path / name}"
        result = run_recipe(SMALL, f"--encoder={encoder}", *FEW, *options, folder)
        after = SSLEncoder.from_run(tmp_path / name).state_dict()
        assert torch.equal(after["normalize.glob_mean"], before["normalize.glob_mean"])
        weights = [n for n, t in before.items() if t.dim() > 1 and n.endswith("weight")]
        far[name] = max(float((after[n] - before[n]).abs().max()) for n in weights)
    assert 0 < far["tuned"] < 1e-3 < far["scratch"]
    assert result["encoder"]["weights"] == "drawn anew"


def test_a_run_goes_on_with_both_optimizers_when_the_encoder_has_moved(
    encoder: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(encoder, tmp_path / "encoder"))
    options = [f"--encoder={copy}", *TINY, "--train_hours=0.01"]
    whole = run_recipe(SMALL, *options, "--training_steps=4", "--warmup_steps=1")
    checkpoint = next((tmp_path / "run" / "save").glob("CKPT*"))
    names = {path.name for path in checkpoint.iterdir()}
    parts = ("optimizer", "schedule")
    assert names >= {f"{p}_{q}.ckpt" for p in ("head", "encoder") for q in parts}
    parted = [*options, "--training_steps=4", "--warmup_steps=1", f"--output_folder={tmp_path}/2"]
    run_recipe(SMALL, *parted, "--number_of_epochs=1")
    shutil.move(copy, tmp_path / "elsewhere")
    again = run_recipe(SMALL, *parted)
    assert again["optimizer_steps"] == whole["optimizer_steps"] == 4
    contents = [read_run(tmp_path / folder).tensors for folder in ("run", "2")]
    assert all(torch.equal(tensor, contents[1][name]) for name, tensor in contents[0].items())
    drawn = read_manifest(tmp_path / "run" / "save" / "train_0.01h.csv")
    assert 36 <= sum(row.duration for row in drawn) < 36 + max(row.duration for row in drawn)


def test_other_encoders_and_settings_do_not_go_on(
    encoder: Path, other: Path, pretrained: Path, run_recipe: RunRecipe
) -> None:
    run_recipe(SMALL, f"--encoder={encoder}", *FEW)
    for options, message in (
        ([f"--encoder={other}"], "has attention_type RoPEMHA, mode None, but attention_type Summ"),
        (
            [f"--encoder={encoder}", "--from_scratch=True", "--encoder_lr=0.1"],
            "from_scratch: False, now True",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run_recipe(SMALL, *FEW, *options)
    with pytest.raises(InputError, match="Give --head_size=12"):
        options = [*FEW[:-3], *FEW[-2:], "--head_size=13", "--trust_run=True"]
        run_recipe(SMALL, f"--encoder={pretrained}", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder=nowhere"], "--encoder=nowhere: there is no folder nowhere"),
        (["--encoder={encoder}", "--train_hours=10"], "--train_hours=10: .*0.0. h of usable"),
        (["--encoder={encoder}", "--sample_rate=8000"], "audio at 16000 Hz.*sample_rate 8000"),
        (["--encoder={encoder}", "--from_scratch=True"], "give --encoder_lr"),
    ],
)
def test_bad_input_is_told(
    options: list[str], message: str, encoder: Path, run_recipe: RunRecipe
) -> None:
    given = [option.format(encoder=encoder) for option in options]
    with pytest.raises(InputError, match=message):
        run_recipe(SMALL, *FEW, *given)


def test_a_recogniser_is_an_encoder_too(
    encoder: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    run_recipe(SMALL, f"--encoder={encoder}", *FEW)
    first = Path(shutil.move(tmp_path / "run", tmp_path / "first"))
    result = run_recipe(SMALL, f"--encoder={first}", *FEW, "--trust_run=True")
    assert result["encoder"]["path"] == str(first)


def test_two_processes(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    options = [*FEW, f"--encoder={encoder}", f"--data_folder={corpus}", "--train_hours=0.01"]
    run_on_two_ranks(SMALL, tmp_path / "run", *options)
