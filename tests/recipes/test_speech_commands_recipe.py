"""The recipe for Speech Commands: every YAML on a small tree in its layout."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.errors import InputError
from tests.recipes.tiny import TINY_SIZES, flags_for

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "Google-speech-commands"
HPARAMS = RECIPE / "hparams"
YAMLS = sorted(HPARAMS.glob("*.yaml"))
SMALL = HPARAMS / "small_conformer.yaml"
RunRecipe = Callable[..., dict[str, Any]]

TINY = TINY_SIZES | {"max_batch_length": 12, "num_buckets": 1}
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHERS = ("bird", "tree")  # of the 12-class task they are unknown words
SPEAKERS = [f"{n:08x}" for n in range(7)]  # the last is for testing, the one before validates


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tone in half a second, a pitch for each of 12 words."""
    root = tmp_path_factory.mktemp("commands") / "speech_commands_v0.02"
    rng, time_L = np.random.default_rng(0), np.arange(8000) / 16000
    for index, word in enumerate((*COMMANDS, *OTHERS)):
        (root / word).mkdir(parents=True)
        for speaker in SPEAKERS:
            for take in range(4):
                pitch_L = 200 * 1.3**index * rng.uniform(0.98, 1.02) * (1 + time_L)
                noise_L = 0.01 * rng.standard_normal(len(time_L))
                tone_L = 0.2 * np.sin(np.pi * pitch_L * time_L) * (abs(time_L - 0.25) < 0.12)
                path = root / word / f"{speaker}_nohash_{take}.wav"
                soundfile.write(path, tone_L + noise_L, 16000)
    for name, speaker in (("validation", SPEAKERS[-2]), ("testing", SPEAKERS[-1])):
        words = (*COMMANDS, *OTHERS)
        lines = [f"{w}/{speaker}_nohash_{take}.wav\n" for w in words for take in range(4)]
        (root / f"{name}_list.txt").write_text("".join(lines))
    (root / "_background_noise_").mkdir()
    noise_L = 0.1 * rng.standard_normal(200_000)
    soundfile.write(root / "_background_noise_" / "white.wav", noise_L, 16000)
    return root


def tiny(hparams: Path, corpus: Path, **changes: Any) -> list[str]:
    options = {**TINY, "data_folder": corpus, **changes}
    if "_12" not in hparams.stem:
        options.setdefault("classes", "[12]")
    return flags_for(hparams, options)


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_and_reports(
    hparams: Path, run_recipe: RunRecipe, commands: Path, tmp_path: Path
) -> None:
    result = run_recipe(hparams, *tiny(hparams, commands), "--debug")
    assert 0 <= result["test_accuracy"] <= 100 and result["optimizer_steps"] > 0
    folder = tmp_path / "run"
    assert (folder / "curves.png").stat().st_size > 10_000
    names = json.loads((folder / "save" / "labels.json").read_text())["label"]
    drawn = {"_silence_", "_unknown_"} if "_12" in hparams.stem else set(OTHERS)
    assert set(names) == {*COMMANDS, *drawn}


def test_learns_words_unknown_words_and_silence(
    run_recipe: RunRecipe, commands: Path, tmp_path: Path
) -> None:
    options = {"d_model": 32, "d_ffn": 64, "cnn_channels": "[32, 32]", "lr": 0.003}
    options |= {"training_steps": 60, "warmup_steps": 10, "avg_checkpoints": 1}
    options |= {"words": "[yes, on, go]", "unknown_share": 0.5, "silence_share": 0.5}
    options |= {"classes": "[5]"}
    result = run_recipe(SMALL, *tiny(SMALL, commands, **options))
    assert result["test_accuracy"] > 50  # a quarter by chance: words are near each other
    said = predictions(tmp_path / "run")
    counts = Counter(line["reference"]["label"] for line in said)
    assert counts["_unknown_"] == counts["_silence_"] == 6 and counts["yes"] == 4
    silence = [line["label"] for line in said if line["reference"]["label"] == "_silence_"]
    assert silence == ["_silence_"] * 6
    rows = list(csv.reader((tmp_path / "run" / "confusion_label.csv").open()))
    assert len(rows) == 6 and (tmp_path / "run" / "confusion_label.png").is_file()
    again = run_recipe(SMALL, *tiny(SMALL, commands, **options), "--test_only")
    assert again["metrics"] == result["metrics"]
    assert predictions(tmp_path / "run") == said


@pytest.mark.parametrize("name", ["RoPEMHA", "hypermixing"])
def test_the_mixer_is_one_flag(name: str, run_recipe: RunRecipe, commands: Path) -> None:
    result = run_recipe(SMALL, *tiny(SMALL, commands), f"--attention_type={name}", "--debug")
    assert result["architecture"]["attention_type"] == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": "[35]"}, r"--classes is \[35\].*12 of label: set it to \[12\]"),
        ({"words": "[yes, maybe]"}, "no clip of maybe, only of bird"),
        ({"unknown_share": 0.1}, "with --words null no word is left"),
        ({"data_folder": "/nowhere"}, "--data_folder /nowhere: no such folder"),
    ],
)
def test_bad_flags_are_told(
    changes: dict[str, Any], message: str, run_recipe: RunRecipe, commands: Path
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        run_recipe(SMALL, *tiny(SMALL, commands, **changes), "--debug")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A few recorded digits in the layout of Speech Commands."""
    data = Path(os.environ.get("SUMMARYMIXING_SPEECH_DATA", ROOT.parent / "shared" / "data"))
    table = data / "fsdd" / "manifest.csv"
    if not table.is_file():
        pytest.skip(f"no recorded digits in {data} (set SUMMARYMIXING_SPEECH_DATA)")
    root = tmp_path / "recorded"
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    with table.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["digit"] in "012" and int(r["index"]) < 8]
    for row in rows:
        name = f"digit{row['digit']}/{row['speaker']}_nohash_{row['index']}.wav"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        samples_L, rate = soundfile.read(data / "fsdd" / row["path"])
        soundfile.write(root / name, samples_L, rate)
        if row["index"] in "67":
            lists["validation" if row["index"] == "6" else "testing"].append(name + "\n")
    for split, names in lists.items():
        (root / f"{split}_list.txt").write_text("".join(names))
    return root


def test_recorded_speech(recorded: Path, run_recipe: RunRecipe, tmp_path: Path) -> None:
    options = tiny(SMALL, recorded, classes="[3]", training_steps=2)
    result = run_recipe(SMALL, *options, "--verify_audio=decode")
    assert np.isfinite(result["metrics"]["testing_loss"])
    assert {line["reference"]["label"] for line in predictions(tmp_path / "run")} == {
        "digit0",
        "digit1",
        "digit2",
    }
