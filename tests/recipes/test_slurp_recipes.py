"""The recipes for SLURP: every YAML of both, on a small tree in its layout."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.bundles import export_bundle
from summarymixing_modules.cli import main
from summarymixing_modules.data.labelled import annotations_of
from summarymixing_modules.data.text.semantics import parse_semantics, semantics_from
from summarymixing_modules.errors import InputError
from tests.ranks import run_on_two_ranks
from tests.recipes.tiny import TINY_SIZES, flags_for

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes" / "SLURP"
CLASSIFY, WRITE = RECIPES / "classification", RECIPES / "seq2seq"
YAMLS = sorted(RECIPES.glob("*/hparams/*.yaml"))
SMALL = CLASSIFY / "hparams" / "small_conformer.yaml"
SMALL_SEQ = WRITE / "hparams" / "small_conformer.yaml"
RunRecipe = Callable[..., dict[str, Any]]

TINY = TINY_SIZES | {
    "max_batch_length": 10,
    "num_buckets": 2,
    "train_splits": "[train]",
    "classes": "[2, 2]",
    "token_type": "char",
    "test_beam_size": 2,
    "max_decode_ratio": 0.3,
}
SCENARIOS = {"alarm": 180.0, "music": 900.0}  # what an utterance is about is its pitch,
ACTIONS = {"set": 2.5, "remove": 0.4}  # and what is to be done, where the pitch goes


def utterance(number: int, scenario: str, action: str) -> dict[str, Any]:
    """A line of SLURP; of half of them the scenario comes with an entity."""
    filler = {"alarm": ["Seven", "o'clock"], "music": ["jazz"]}[scenario]
    entities = [{"span": list(range(1, 1 + len(filler))), "type": scenario + "_name"}]
    return {
        "slurp_id": number,
        "sentence": " ".join([action, *filler]),
        "scenario": scenario,
        "action": action,
        "intent": "any",
        "tokens": [{"surface": word} for word in [action, *filler]],
        "entities": entities if action == "set" else [],
        "recordings": [{"file": f"audio-{number}.flac"}],
    }


def sound(record: dict[str, Any], path: Path, rng: np.random.Generator) -> None:
    seconds = rng.uniform(0.75, 0.85)
    time_L = np.arange(int(16000 * seconds)) / 16000
    start = SCENARIOS[record["scenario"]] * rng.uniform(0.99, 1.01)
    end = start * ACTIONS[record["action"]]
    phase_L = 2 * np.pi * (start * time_L + (end - start) * time_L**2 / (2 * seconds))
    samples_L = 0.2 * np.sin(phase_L) + 0.002 * rng.standard_normal(len(time_L))
    soundfile.write(path, samples_L, 16000)


@pytest.fixture
def slurp(tmp_path: Path) -> Path:
    """24 utterances to train on, 12 to validate, 8 to test."""
    root, rng, number = tmp_path / "slurp", np.random.default_rng(0), 0
    (root / "audio" / "slurp_real").mkdir(parents=True)
    (root / "dataset" / "slurp").mkdir(parents=True)
    for split, times in (("train", 6), ("devel", 3), ("test", 2)):
        lines = []
        for _ in range(times):
            for scenario in SCENARIOS:
                for action in ACTIONS:
                    record = utterance(number, scenario, action)
                    file = record["recordings"][0]["file"]
                    sound(record, root / "audio" / "slurp_real" / file, rng)
                    lines.append(json.dumps(record) + "\n")
                    number += 1
        (root / "dataset" / "slurp" / f"{split}.jsonl").write_text("".join(lines))
    return root


def characters(slurp: Path) -> int:
    """Size of the vocabulary of characters: blank, two marks, and what occurs."""
    texts = []
    for line in (slurp / "dataset" / "slurp" / "train.jsonl").read_text().splitlines():
        record = json.loads(line)
        words = [token["surface"].lower() for token in record["tokens"]]
        entities = [
            {"type": e["type"], "filler": " ".join(words[i] for i in e["span"])}
            for e in record["entities"]
        ]
        texts.append(semantics_from({**record, "entities": entities}).to_text())
    return 3 + len(set("".join(texts)))


def tiny(hparams: Path, slurp: Path, **changes: Any) -> list[str]:
    options = TINY | {"data_folder": slurp}
    if hparams.parents[1] == WRITE:
        options["output_neurons"] = characters(slurp)
    return flags_for(hparams, options, **changes)


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_every_yaml_trains_and_reports(
    hparams: Path, run_recipe: RunRecipe, slurp: Path, tmp_path: Path
) -> None:
    result = run_recipe(hparams, *tiny(hparams, slurp), "--debug")
    main = "test_accuracy" if hparams.parents[1] == CLASSIFY else "test_slu_f1"
    assert 0 <= result[main] <= 100 and result["optimizer_steps"] > 0
    assert result["real_time_factor"] > 0
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text())[main] == result[main]
    assert (folder / "curves.png").stat().st_size > 10_000
    for line in predictions(folder):
        assert {"file", "scenario", "action", "entities"} <= line.keys()


@pytest.mark.parametrize("name", ["RoPEMHA", "mamba", "fastformer"])
def test_the_mixer_is_one_flag(name: str, run_recipe: RunRecipe, slurp: Path) -> None:
    sizes = tiny(SMALL, slurp, d_model=32, pooling="mean")
    options = [f"--attention_type={name}", "--matched_to=SummaryMixing", "--debug"]
    result = run_recipe(SMALL, *sizes, *options)
    own = run_recipe(SMALL, *sizes, "--debug", f"--output_folder={slurp}")
    assert result["architecture"]["attention_type"] == name
    assert abs(result["parameters"]["total"] / own["parameters"]["total"] - 1) < 0.08


@pytest.mark.parametrize("pooling", ["mean", "attentive"])
def test_classification_learns(
    pooling: str, run_recipe: RunRecipe, slurp: Path, tmp_path: Path
) -> None:
    options = {"d_model": 32, "d_ffn": 64, "cnn_channels": "[32, 32]", "pooling": pooling}
    options |= {"training_steps": 80, "warmup_steps": 8, "lr": 0.003, "avg_checkpoints": 1}
    result = run_recipe(SMALL, *tiny(SMALL, slurp, **options))
    assert result["test_accuracy"] > 85 and result["unseen_classes"] == {}
    assert result["metrics"]["test_intent_acc"] == result["test_accuracy"]
    folder = tmp_path / "run"
    assert json.loads((folder / "save" / "labels.json").read_text()) == {
        "scenario": ["alarm", "music"],
        "action": ["remove", "set"],
    }
    rows = list(csv.reader((folder / "confusion_scenario.csv").open()))
    assert rows[0][1:] == ["alarm", "music"] and int(rows[1][1]) + int(rows[1][2]) == 4
    assert (folder / "confusion_action.png").stat().st_size > 5_000
    again = run_recipe(SMALL, *tiny(SMALL, slurp, **options), "--test_only")
    assert again["metrics"] == result["metrics"]
    assert len(predictions(folder)) == 8


def test_a_head_of_its_own_for_the_intent(run_recipe: RunRecipe, slurp: Path) -> None:
    options = tiny(SMALL, slurp, tasks="[intent]", classes="[4]")
    result = run_recipe(SMALL, *options, "--debug")
    assert set(result["metrics"]) == {"test_loss", "test_acc", "test_accuracy"}
    assert result["architecture"]["labels"]["intent"][0] == "alarm_remove"


def test_classes_that_training_does_not_have_count_as_errors(
    run_recipe: RunRecipe, slurp: Path
) -> None:
    file = slurp / "dataset" / "slurp" / "test.jsonl"
    file.write_text(file.read_text().replace('"action": "remove"', '"action": "postpone"'))
    result = run_recipe(SMALL, *tiny(SMALL, slurp, training_steps=1))
    assert result["unseen_classes"] == {"test": {"action": {"postpone": 4}}}
    assert result["test_accuracy"] <= 50


def test_bad_lines_and_recordings_are_listed_and_limited(
    run_recipe: RunRecipe, slurp: Path, tmp_path: Path
) -> None:
    file = slurp / "dataset" / "slurp" / "train.jsonl"
    file.write_text(file.read_text() + '{"scenario": "alarm"}\n')
    (slurp / "audio" / "slurp_real" / "audio-0.flac").unlink()
    with pytest.raises(InputError, match="(?s)slurp_train: 2 of 25 .*--max_bad_audio"):
        run_recipe(SMALL, *tiny(SMALL, slurp), "--debug")
    result = run_recipe(SMALL, *tiny(SMALL, slurp), "--debug", "--max_bad_audio=0.1")
    assert result["optimizer_steps"] > 0
    listed = (tmp_path / "run" / "save" / "bad_slurp_train.csv").read_text()
    assert "train.jsonl:25" in listed and "audio-0.flac" in listed


def test_other_labels_do_not_go_on_with_a_checkpoint(run_recipe: RunRecipe, slurp: Path) -> None:
    options = tiny(SMALL, slurp, training_steps=1)
    run_recipe(SMALL, *options)
    for file in (slurp / "dataset" / "slurp").glob("*.jsonl"):
        file.write_text(file.read_text().replace('"action": "set"', '"action": "add"'))
    with pytest.raises(InputError, match="labels"):
        run_recipe(SMALL, *options)


def test_starts_from_another_run_and_resumes(
    run_recipe: RunRecipe, slurp: Path, tmp_path: Path
) -> None:
    options = tiny(SMALL, slurp, training_steps=1)
    first = run_recipe(SMALL, *options)
    assert run_recipe(SMALL, *options)["metrics"] == first["metrics"]
    more = [f"--init_from={tmp_path / 'run'}", f"--output_folder={tmp_path / 'b'}"]
    started = run_recipe(SMALL, *options, "--lr=1.0e-38", *more)
    assert started["metrics"]["test_loss"] == pytest.approx(first["metrics"]["test_loss"], 1e-5)


def test_a_classifier_is_used_on_files_and_starts_another(
    run_recipe: RunRecipe,
    slurp: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_recipe(SMALL, *tiny(SMALL, slurp, training_steps=1))
    bundle = export_bundle(tmp_path / "run", tmp_path / "bundle")
    card = (bundle / "README.md").read_text()
    assert "summarymixing classify" in card and "| test_intent_acc |" in card
    expected = {line["file"]: line for line in predictions(tmp_path / "run")}
    files = sorted(path for path in slurp.rglob("*.flac") if path.name in expected)
    capsys.readouterr()
    assert main(["classify", *map(str, files), "--model", str(bundle), "--format=json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(expected) and [line["file"] for line in lines] == list(map(str, files))
    for line in lines:
        said = expected[Path(line["file"]).name]
        for task, classes in line["tasks"].items():
            assert [each["label"] for each in classes] == [said[task]]
    options = tiny(SMALL, slurp, training_steps=1, classes="[2]", tasks="[action]")
    for number, source in enumerate((tmp_path / "run", bundle)):
        folder = tmp_path / f"started_{number}"
        trust = [f"--init_from={source}", f"--trust_run={number == 0}"]
        run_recipe(SMALL, *options, *trust, f"--output_folder={folder}")
        assert f"encoder of {source}; drawn anew: outputs" in (folder / "log.txt").read_text()


def test_two_processes(slurp: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run_on_two_ranks(SMALL, folder, *tiny(SMALL, slurp, training_steps=2))
    assert result["optimizer_steps"] == 2 and len(predictions(folder)) == 8


def test_writing_the_meaning_learns(run_recipe: RunRecipe, slurp: Path, tmp_path: Path) -> None:
    options = {"d_model": 64, "d_ffn": 128, "cnn_channels": "[32, 32]", "label_smoothing": 0.0}
    options |= {"training_steps": 160, "warmup_steps": 15, "lr": 0.003, "avg_checkpoints": 5}
    options |= {"max_decode_ratio": 10, "valid_search_interval": 1000, "max_batch_length": 9}
    result = run_recipe(SMALL_SEQ, *tiny(SMALL_SEQ, slurp, **options))
    metrics = result["metrics"]
    assert result["test_slu_f1"] > 80 and metrics["test_malformed"] == 0
    assert metrics["test_intent_acc"] > 85 and metrics["test_acc"] > 98
    written = predictions(tmp_path / "run")
    assert len(written) == 8 and all(line["well_formed"] for line in written)
    fillers = {e["filler"] for line in written for e in line["entities"]}
    assert "seven o'clock" in fillers
    for line in written:
        meaning = parse_semantics(line["text"])
        assert meaning is not None and meaning.to_json()["entities"] == line["entities"]


def test_malformed_answers_are_counted(run_recipe: RunRecipe, slurp: Path, tmp_path: Path) -> None:
    options = tiny(SMALL_SEQ, slurp, training_steps=2, valid_search_interval=1)
    result = run_recipe(SMALL_SEQ, *options, "--ctc_weight=0.3", "--ctc_weight_decode=0.2")
    metrics = result["metrics"]
    assert metrics["test_malformed"] == 100
    assert metrics["test_slu_f1"] == metrics["test_scenario_acc"] == 0
    assert {line["scenario"] for line in predictions(tmp_path / "run")} == {"none"}
    assert "valid slu_f1" in (tmp_path / "run" / "train_log.txt").read_text()


def test_characters_that_training_does_not_have(
    run_recipe: RunRecipe, slurp: Path, tmp_path: Path
) -> None:
    file = slurp / "dataset" / "slurp" / "test.jsonl"
    file.write_text(file.read_text().replace('"jazz"', '"j@zz"'))
    run_recipe(SMALL_SEQ, *tiny(SMALL_SEQ, slurp, training_steps=1))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "training has no '@' (2 utterances)" in log
    save = tmp_path / "run" / "save"
    assert "'jzz'" in (save / "semantics_slurp_test.csv").read_text()
    assert "j@zz" in annotations_of(save / "slurp_test.csv").read_text()
    assert any(e["filler"] == "j@zz" for e in _reference_entities(tmp_path / "run"))


def _reference_entities(folder: Path) -> list[dict[str, str]]:
    return [e for line in predictions(folder) for e in line["reference"]["entities"]]


@pytest.mark.parametrize(
    ("hparams", "changes", "message"),
    [
        (SMALL, {"classes": "[3, 2]"}, r"--classes is \[3, 2\].*set it to \[2, 2\]"),
        (SMALL, {"tasks": "[scenario, tone]"}, "--tasks: the corpus has no labels for 'tone'"),
        (SMALL, {"data_folder": "/nowhere"}, "--data_folder /nowhere: no such folder"),
        (SMALL, {"dev_splits": "[valid]"}, "--dev_splits: 'valid' is none of"),
        (SMALL_SEQ, {"output_neurons": 9}, "--output_neurons .*is 9"),
        (SMALL_SEQ, {"lm_folder": "x"}, "--lm_folder is neither a key"),
    ],
)
def test_bad_flags_are_told(
    hparams: Path, changes: dict[str, Any], message: str, run_recipe: RunRecipe, slurp: Path
) -> None:
    options = tiny(hparams, slurp)
    options = [o for o in options if o.split("=")[0].removeprefix("--") not in changes]
    with pytest.raises(InputError, match=f"(?s){message}"):
        run_recipe(hparams, *options, *(f"--{k}={v}" for k, v in changes.items()), "--debug")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A few recorded coffee orders in SLURP's layout: the drink is the scenario."""
    data = Path(os.environ.get("SUMMARYMIXING_SPEECH_DATA", ROOT.parent / "shared" / "data"))
    table = data / "sti" / "manifest.csv"
    if not table.is_file():
        pytest.skip(f"no recorded orders in {data} (set SUMMARYMIXING_SPEECH_DATA)")
    root = tmp_path / "recorded"
    (root / "slurp_real").mkdir(parents=True)
    with table.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["size"] and float(r["duration"]) < 8][:30]
    lines = []
    for number, row in enumerate(rows):
        drink, size = row["coffeeDrink"].split()[-1], row["size"].split()
        samples_L, rate = soundfile.read(data / "sti" / row["path"])
        soundfile.write(root / "slurp_real" / f"{number}.flac", samples_L, rate)
        lines.append(
            {
                "scenario": drink,
                "action": "order",
                "tokens": [{"surface": word} for word in size],
                "entities": [{"type": "size", "span": list(range(len(size)))}],
                "recordings": [{"file": f"{number}.flac"}],
            }
        )
    for split, part in (("train", lines[:20]), ("devel", lines[20:25]), ("test", lines[25:])):
        text = "".join(json.dumps(line) + "\n" for line in part)
        (root / f"{split}.jsonl").write_text(text)
    return root


def test_recorded_speech(recorded: Path, run_recipe: RunRecipe, tmp_path: Path) -> None:
    lines = (recorded / "train.jsonl").read_text().splitlines()
    drinks = {json.loads(line)["scenario"] for line in lines}
    options = tiny(SMALL, recorded, classes=f"[{len(drinks)}, 1]", training_steps=2)
    result = run_recipe(SMALL, *options, "--verify_audio=decode")
    assert result["metrics"]["test_action_acc"] == 100
    assert np.isfinite(result["metrics"]["test_loss"]) and len(predictions(tmp_path / "run")) == 5


@pytest.mark.parametrize("hparams", [SMALL, SMALL_SEQ], ids=["classification", "seq2seq"])
def test_shards_train_the_same(hparams: Path, slurp: Path, same_from_shards: RunRecipe) -> None:
    options = [option for option in tiny(hparams, slurp, training_steps=2)]
    assert same_from_shards(hparams, *options)["optimizer_steps"] == 2
