"""The CTC recipe: every YAML, every mixer, two processes, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.cli import main
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import mixer_names
from tests.ranks import run_on_two_ranks
from tests.recipes.tiny import built

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "ASR" / "CTC"
HPARAMS = RECIPE / "hparams"
YAMLS = sorted(HPARAMS.glob("*.yaml"))
RunRecipe = Callable[..., dict[str, Any]]

TINY = [
    "--token_type=librispeech_char",
    "--output_neurons=29",
    "--num_encoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--num_workers=0",
    "--max_batch_length=20",
    "--num_buckets=2",
]
SPLITS = ["--train_splits=[train-clean-100]", "--test_splits=[test-clean]"]
SMALL = HPARAMS / "small_conformer.yaml"


def tiny(hparams: Path) -> list[str]:
    inner = "--csgu_linear_units=32" if hparams.stem == "branchformer" else "--d_ffn=32"
    return [*TINY, *SPLITS, inner]


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_decodes_and_reports(
    hparams: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    beam = ["--test_beam_size=4"] if hparams.stem == "conformer" else []
    result = run_recipe(hparams, *tiny(hparams), *beam, "--debug")
    assert 0 <= result["test_wer"] and result["optimizer_steps"] > 0
    assert result["parameters"]["total"] > 0 and result["real_time_factor"] > 0
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text())["test_wer"] == result["test_wer"]
    assert (folder / "curves.png").stat().st_size > 10_000
    assert "WER" in (folder / "wer_test-clean.txt").read_text()


@pytest.mark.parametrize("name", mixer_names())
def test_every_mixer_trains_by_one_flag(name: str, run_recipe: RunRecipe) -> None:
    result = run_recipe(SMALL, *tiny(SMALL), f"--attention_type={name}", "--debug")
    assert result["architecture"]["attention_type"] == name
    assert np.isfinite(result["metrics"]["test-clean_loss"])


def test_streaming_training_and_bfloat16(run_recipe: RunRecipe) -> None:
    options = ["--streaming=True", "--chunkwise_prob=1.0", "--precision=bf16", "--debug"]
    result = run_recipe(SMALL, *tiny(SMALL), *options)
    assert result["precision"] == "bf16" and np.isfinite(result["metrics"]["test-clean_loss"])


def test_learns_its_training_sentences(run_recipe: RunRecipe, corpus: Path, tmp_path: Path) -> None:
    """The whole chain from FLAC to WER: a model with enough steps can write what it heard."""
    heard = tmp_path / "LibriSpeech"
    shutil.copytree(corpus / "LibriSpeech" / "test-clean", heard / "train-clean-100")
    for split in ("dev-clean", "test-clean"):
        _copy_as(corpus / "LibriSpeech" / "test-clean", heard / split, split)
    options = [
        f"--data_folder={heard}",
        "--token_type=librispeech_char",
        "--output_neurons=29",
        "--num_encoder_layers=2",
        "--d_model=64",
        "--d_ffn=128",
        "--cnn_channels=[64, 64]",
        "--training_steps=150",
        "--warmup_steps=20",
        "--sorting=ascending",
        "--avg_checkpoints=1",
    ]
    result = run_recipe(SMALL, *options)
    assert result["test_wer"] < 15


def _copy_as(source: Path, target: Path, prefix: str) -> None:
    """A copy of a split under other utterance names."""
    speaker_of = {path.name: str(9000 + i) for i, path in enumerate(sorted(source.iterdir()))}
    for path in source.rglob("*.*"):
        speaker = path.relative_to(source).parts[0]
        new = speaker_of[speaker] + ("1" if prefix == "dev-clean" else "2")
        inside = path.relative_to(source / speaker)
        name = inside.name.replace(f"{speaker}-", f"{new}-", 1)
        destination = target / new / inside.parent / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            destination.write_text(path.read_text().replace(f"{speaker}-", f"{new}-"))
        else:
            shutil.copy(path, destination)


def test_two_processes(corpus: Path, tmp_path: Path) -> None:
    options = [*tiny(SMALL), f"--data_folder={corpus}", "--training_steps=2"]
    assert run_on_two_ranks(SMALL, tmp_path / "run", *options)["optimizer_steps"] == 2


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_has_its_stated_size(hparams: Path, tmp_path: Path) -> None:
    stated = {"conformer": 68.0, "branchformer": 86.1, "small_conformer": None}[hparams.stem]
    overrides = f"data_folder: {tmp_path}\noutput_folder: {tmp_path}"
    encoder = built(hparams, overrides)["transformer"].encoder
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert stated is None or abs(millions / stated - 1) < 0.005


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention_type=SumaryMixing"], "SumaryMixing.*SummaryMixing"),
        (["--data_folder=/nowhere"], "--data_folder.*/nowhere"),
        (["--train_splits=[train-clean-360]"], "train-clean-360.*train-clean-100"),
        (["--attention_type=RoPEMHA", "--mode=SummaryMixing-lite"], "--mode.*RoPEMHA"),
        (["--mod=x"], "--mod .*--mode"),
        (["--token_type=unigram", "--output_neurons=5000"], "--output_neurons.*largest"),
        (["--token_type=librispeech_char", "--output_neurons=30"], "29"),
    ],
)
def test_bad_flags_are_told(options: list[str], message: str, run_recipe: RunRecipe) -> None:
    named = {option.split("=")[0] for option in options}
    rest = [option for option in tiny(SMALL) if option.split("=")[0] not in named]
    with pytest.raises(InputError, match=f"(?s){message}"):
        run_recipe(SMALL, *rest, *options, "--debug")


def test_a_key_that_nothing_reads_is_told(run_recipe: RunRecipe, tmp_path: Path) -> None:
    folder = tmp_path / "hparams"
    folder.mkdir()
    shutil.copy(RECIPE / "train.py", tmp_path)
    (folder / "typo.yaml").write_text(f"base: {SMALL}\nlrr: 1\n")
    with pytest.raises(InputError, match="lrr.*typo.yaml|typo.yaml.*lrr"):
        run_recipe(folder / "typo.yaml", "--debug")


def test_matched_models_have_as_many_parameters(run_recipe: RunRecipe) -> None:
    wider = [option for option in tiny(SMALL) if "d_model" not in option] + ["--d_model=32"]
    options = [*wider, "--matched_to=SummaryMixing", "--debug"]
    reference = run_recipe(SMALL, *options)
    other = run_recipe(SMALL, *options, "--attention_type=fastformer")
    sizes = [result["parameters"]["total"] for result in (reference, other)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.05


def test_options_of_other_mixers(run_recipe: RunRecipe) -> None:
    options = [*tiny(SMALL), "--attention_type=mamba", "--debug"]
    both = run_recipe(SMALL, *options)
    one = run_recipe(SMALL, *options, "--mixer_options={bidirectional: False}")
    assert one["parameters"]["total"] < both["parameters"]["total"]
    with pytest.raises(InputError, match="mamba has no option 'd_stat'.*d_state"):
        run_recipe(SMALL, *options, "--mixer_options={d_stat: 4}")


def test_starts_from_another_run(run_recipe: RunRecipe, tmp_path: Path) -> None:
    def run(name: str, *options: str) -> dict[str, Any]:
        folder = f"--output_folder={tmp_path / name}"
        still = ["--lr=1.0e-38", "--training_steps=1"]
        return run_recipe(SMALL, *tiny(SMALL), folder, *still, *options)

    first = run("first", "--seed=1")
    started = run("second", "--seed=2", f"--init_from={tmp_path / 'first'}")
    fresh = run("third", "--seed=2")
    losses = [result["metrics"]["test-clean_loss"] for result in (first, started, fresh)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] != losses[0]
    with pytest.raises(InputError, match="--init_from=.*no checkpoint"):
        run("fourth", f"--init_from={tmp_path / 'nothing'}")
    with pytest.raises(InputError, match="SummaryMixing.*another --init_from"):
        options = ["--attention_type=RoPEMHA", "--trust_run=True"]
        run("fifth", f"--init_from={tmp_path / 'first'}", *options)


def test_a_checkpoint_of_another_mixer_is_told(run_recipe: RunRecipe) -> None:
    run_recipe(SMALL, *tiny(SMALL), "--training_steps=1")
    with pytest.raises(Exception, match="(?s)SummaryMixing.*RoPEMHA|RoPEMHA.*SummaryMixing"):
        run_recipe(SMALL, *tiny(SMALL), "--training_steps=1", "--attention_type=RoPEMHA")


def test_bad_audio_is_left_out_listed_and_limited(
    run_recipe: RunRecipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    train = sorted((copy / "LibriSpeech" / "train-clean-100").rglob("*.flac"))
    tone = np.zeros(8000, dtype=np.float32)
    soundfile.write(train[0], np.stack([tone, tone], 1), 16_000)
    soundfile.write(train[1], tone, 8_000)
    train[2].write_bytes(b"")
    train[3].unlink()
    long = next(path for path in train[4:] if path.parent != train[0].parent)
    transcript = next(long.parent.glob("*.trans.txt"))
    transcript.write_text(transcript.read_text().replace(long.stem, f"{long.stem} {'A' * 200}"))
    next((copy / "LibriSpeech" / "test-clean").rglob("*.flac")).unlink()
    options = [*tiny(SMALL), f"--data_folder={copy}", "--debug"]
    with pytest.raises(InputError, match="--max_bad_audio"):
        run_recipe(SMALL, *options)
    options.append("--max_bad_audio=0.5")
    with pytest.raises(InputError, match="test-clean: 1 of 4 .*--test_max_bad_audio 0"):
        run_recipe(SMALL, *options)
    options.append("--test_max_bad_audio=0.3")
    assert main(["prepare", str(SMALL), *options, f"--output_folder={tmp_path / 'run'}"]) == 0
    with monkeypatch.context() as patch:
        patch.delattr("summarymixing_modules.data.preparation.check_audio")  # all is prepared
        result = run_recipe(SMALL, *options)
    assert result["optimizer_steps"] > 0
    assert (result["test_utterances"], result["test_missing"]) == (
        {"test-clean": 3},
        {"test-clean": 1},
    )
    assert set(result["intervals"]) == {"test-clean_wer", "test-clean_cer", "test_wer"}
    low, high = result["intervals"]["test_wer"]
    assert low <= result["test_wer"] <= high
    assert result["ctc_too_short"] == 1
    (named,) = (tmp_path / "run" / "ctc_too_short.csv").read_text().splitlines()[1:]
    assert named.startswith(f"{long.stem},") and int(named.rpartition(",")[2]) > 400
    listed = "".join(path.read_text() for path in (tmp_path / "run").rglob("bad_*.csv"))
    for path in train[:4]:
        assert path.stem in listed


def test_shards_train_the_same(same_from_shards: RunRecipe, tmp_path: Path) -> None:
    result = same_from_shards(SMALL, *tiny(SMALL), "--training_steps=3")
    assert result["optimizer_steps"] == 3


def test_flags_that_contradict_shards(run_recipe: RunRecipe, corpus: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    written = [f"--data_folder={corpus}", *SPLITS, "--shards", str(shards), "--shard_size=0.3"]
    assert main(["shard", str(SMALL), *written]) == 0
    assert main(["shard", "--verify", str(shards)]) == 0
    given = f"--shards={shards}"
    for flags, told in (
        (
            [given, "--train_splits=[dev-clean]"],
            r'--train_splits=\["train-clean-100"\], and the rec',
        ),
        ([given, f"--data_folder={corpus}"], "--data_folder and --shards say where"),
        ([given, "--corpus=slurp"], '--corpus="librispeech", and the recipe asks for "slurp"'),
        ([given, "--shard_window=2", "--sorting=ascending"], "--shard_window shuffles"),
        (["--shard_window=2"], "--shard_window is for --shards"),
        ([f"--shards={tmp_path}"], r"has no shards\.json"),
        ([f"--shards={tmp_path / 'gone'}"], "there is no such folder"),
    ):
        with pytest.raises(InputError, match=told):
            run_recipe(SMALL, *TINY, *flags)
    (shard,) = shards.glob("valid/*.tar")
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard}: is missing\nCopy it again"):
        run_recipe(SMALL, *TINY, given)
    assert main(["shard", "--verify", str(shards)]) == 1
