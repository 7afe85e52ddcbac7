"""The transducer recipe: every YAML, streaming, two processes, resuming, the matrix, bad flags."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml

from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.streaming import StreamingRecognizer
from tests.ranks import console_of, run_on_two_ranks
from tests.recipes.tiny import built

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "ASR" / "transducer"
HPARAMS = RECIPE / "hparams"
YAMLS = sorted(HPARAMS.glob("*.yaml"))
SMALL = HPARAMS / "small_conformer.yaml"
RunRecipe = Callable[..., dict[str, Any]]

TINY = [
    "--token_type=librispeech_char",
    "--output_neurons=29",
    "--num_encoder_layers=1",
    "--d_model=16",
    "--d_ffn=32",
    "--nhead=2",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--predictor_size=8",
    "--joint_size=12",
    "--num_workers=0",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--train_splits=[train-clean-100]",
    "--test_splits=[test-clean]",
]
MATRIX = [
    "--streaming_matrix=True",
    "--matrix_chunk_sizes=[8, 4]",
    "--matrix_left_contexts=[null, 1]",
]


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_decodes_and_reports(
    hparams: Path, run_recipe: RunRecipe, tmp_path: Path
) -> None:
    beam = ["--test_beam_size=3", "--max_expansions=4"] if hparams.stem == "conformer" else []
    result = run_recipe(hparams, *TINY, *beam, "--debug")
    assert result["optimizer_steps"] > 0 and np.isfinite(result["metrics"]["test-clean_loss"])
    assert result["test_wer"] >= 0
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text())["test_wer"] == result["test_wer"]
    assert (folder / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("hparams", "mixer", "millions"),
    [
        ("conformer", [], 72.7),
        ("conformer", ["local_proj_out_dim: 256"], 66.4),
        ("conformer", ["attention_type: RelPosMHAXL"], 75.9),
        ("small_conformer", [], 2.9),
    ],
)
def test_encoder_has_its_stated_size(
    hparams: str, mixer: list[str], millions: float, tmp_path: Path
) -> None:
    overrides = "\n".join([f"data_folder: {tmp_path}", f"output_folder: {tmp_path}", *mixer])
    transformer = built(HPARAMS / f"{hparams}.yaml", overrides)["transformer"]
    found = sum(p.numel() for p in transformer.encoder.parameters()) / 1e6
    assert abs(found / millions - 1) < (0.005 if hparams == "conformer" else 0.05)


def test_schedule_is_that_of_the_paper(tmp_path: Path) -> None:
    overrides = f"data_folder: {tmp_path}\noutput_folder: {tmp_path}\nnum_encoder_layers: 1"
    schedule = built(HPARAMS / "conformer.yaml", overrides)["lr_scheduler"]
    rates: dict[int, float] = {}
    for step in (0, 12_500, 25_000, 210_000):
        schedule.current_step = step
        group = {"lr": math.nan}
        schedule(type("Optimizer", (), {"param_groups": [group]}))
        rates[step] = group["lr"]
    assert rates == pytest.approx({0: 0, 12_500: 4e-4, 25_000: 8e-4, 210_000: 4e-5})


def test_chunks_bfloat16_and_accumulation(run_recipe: RunRecipe) -> None:
    options = ["--chunkwise_prob=1.0", "--precision=bf16", "--grad_accumulation_factor=2"]
    result = run_recipe(SMALL, *TINY, *options, "--training_steps=2")
    assert result["precision"] == "bf16" and result["optimizer_steps"] == 2
    assert np.isfinite(result["metrics"]["test-clean_loss"])


def test_two_processes(corpus: Path, tmp_path: Path) -> None:
    """Also after the CTC loss has ended, when its layer still has to have gradients."""
    options = [*TINY, *MATRIX, "--ctc_epochs=0", f"--data_folder={corpus}", "--training_steps=3"]
    result = run_on_two_ranks(SMALL, tmp_path / "run", *options)
    assert result["optimizer_steps"] == 3
    printed = [console_of(tmp_path / "run", rank).read_text() for rank in range(2)]
    assert [text.count("left chunks |") for text in printed] == [1, 0]


def test_resumes_and_the_matrix_is_one_command(
    run_recipe: RunRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_recipe(SMALL, *TINY, "--training_steps=2", "--streaming=False")
    again = run_recipe(SMALL, *TINY, "--training_steps=2", "--streaming=False", *MATRIX)
    assert again["optimizer_steps"] == first["optimizer_steps"] == 2
    assert again["test_wer"] == first["test_wer"]
    cells = again["streaming_matrix"]["test-clean"]
    assert [(c["chunk_size"], c["chunk_ms"], c["left_chunks"]) for c in cells] == [
        (None, None, None),
        (8, 320.0, None),
        (4, 160.0, None),
        (8, 320.0, 1),
        (4, 160.0, 1),
    ]
    # Without --streaming the test itself is at full context.
    assert cells[0]["wer"] == pytest.approx(again["test_wer"])
    printed = capsys.readouterr().out
    assert re.search(r"left chunks \| +320 ms \| +160 ms\n +all \| \d+\.\d\d ± [\d.]+ \|", printed)
    stem = tmp_path / "run" / "streaming_matrix_test-clean"
    with stem.with_suffix(".csv").open() as stream:
        assert [float(row["wer"]) for row in csv.DictReader(stream)] == [c["wer"] for c in cells]
    assert json.loads(stem.with_suffix(".json").read_text()) == cells
    assert stem.with_suffix(".png").stat().st_size > 10_000


def test_learns_its_training_sentences(run_recipe: RunRecipe, corpus: Path, tmp_path: Path) -> None:
    """The whole chain from FLAC to WER: a model with enough steps can write what it heard."""
    heard = tmp_path / "LibriSpeech"
    for split in ("train-clean-100", "dev-clean", "test-clean"):
        copy_as(corpus / "LibriSpeech" / "test-clean", heard / split, split)
    options = [
        f"--data_folder={heard}",
        "--token_type=librispeech_char",
        "--output_neurons=29",
        "--num_encoder_layers=2",
        "--d_model=64",
        "--d_ffn=128",
        "--cnn_channels=[64, 64]",
        "--predictor_size=64",
        "--joint_size=128",
        "--training_steps=280",
        "--warmup_steps=20",
        "--sorting=ascending",
        "--avg_checkpoints=1",
        "--streaming_matrix=True",
        "--matrix_chunk_sizes=[16]",
        "--matrix_left_contexts=[null]",
    ]
    result = run_recipe(SMALL, *options)
    assert result["test_wer"] < 15
    assert result["streaming_matrix"]["test-clean"][1]["wer"] < 30
    audio = sorted((heard / "test-clean").rglob("*.flac"))[0]
    assert stream(tmp_path / "run", audio) == transcript_of(audio)


def stream(run: Path, audio: Path) -> str:
    """What a finished run's model writes while it hears a file in pieces of 0.1 s."""
    with (run / "hyperparams.yaml").open() as file:
        hparams = load_hyperpyyaml(file)
    hparams["checkpointer"].recover_if_possible(min_key="WER")
    recognizer = StreamingRecognizer(
        hparams["model"],
        hparams["compute_features"],
        hparams["normalize"],
        CharTokenizer(),
        16,
    )
    samples, _ = soundfile.read(audio, dtype="float32")
    state, text = recognizer.start(), ""
    for piece in torch.from_numpy(samples)[None].split(1_600, dim=1):
        new, state = recognizer.accept(piece, state)
        text += new[0]
    new, _ = recognizer.accept(torch.zeros(1, 0), state, final=True)
    return text + new[0]


def transcript_of(audio: Path) -> str:
    """The line of an utterance in its chapter's transcripts."""
    (file,) = audio.parent.glob("*.trans.txt")
    lines = (line.split(" ", 1) for line in file.read_text().splitlines())
    return dict(lines)[audio.stem]


def copy_as(source: Path, target: Path, split: str) -> None:
    """A copy of a split whose speakers have other numbers, one set for each split."""
    digit = {"train-clean-100": "0", "dev-clean": "1", "test-clean": "2"}[split]
    speakers = {path.name: f"9{i:02}{digit}" for i, path in enumerate(sorted(source.iterdir()))}
    for path in source.rglob("*.*"):
        old = path.relative_to(source).parts[0]
        inside = path.relative_to(source / old)
        name = inside.name.replace(f"{old}-", f"{speakers[old]}-", 1)
        destination = target / speakers[old] / inside.parent / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            destination.write_text(path.read_text().replace(f"{old}-", f"{speakers[old]}-"))
        else:
            shutil.copy(path, destination)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention_type=fastformer"], "--streaming=True.*SummaryMixing"),
        (
            ["--attention_type=fastformer", "--streaming=False", "--streaming_matrix=True"],
            "--streaming_matrix=True.*SummaryMixing",
        ),
    ],
)
def test_bad_flags_are_told(options: list[str], message: str, run_recipe: RunRecipe) -> None:
    with pytest.raises(Exception, match=f"(?s){message}") as caught:
        run_recipe(SMALL, *TINY, *options, "--debug")
    assert isinstance(caught.value, InputError) or isinstance(caught.value.__cause__, InputError)
