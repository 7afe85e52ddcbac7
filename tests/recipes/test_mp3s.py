"""The probing recipe: every YAML on tiny corpora, frozen and tuned, folds, resuming, tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.cli import main
from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.encoder import frozen_encoder
from summarymixing_modules.tables.read import load_table
from summarymixing_modules.training.brain import SafeBrain
from tests.ranks import run_on_two_ranks

ROOT = Path(__file__).resolve().parents[2]
HPARAMS = ROOT / "recipes" / "MP3S" / "hparams"
YAMLS = sorted(HPARAMS.glob("*.yaml"))
RunRecipe = Callable[..., dict[str, Any]]

HEADS = {
    "bilstm": "{hidden_size: 8}",
    "linear": "{hidden_size: 8}",
    "contextnet": "{out_channels: 8, conv_channels: [8, 8], num_blocks: 2, num_layers: 1}",
    "ecapa": "{channels: [16, 16, 16, 16, 16], embedding_size: 8}",
    "xvector": "{channels: [8, 8, 8, 8, 8], embedding_size: 8}",
}
TUNED = ["--freeze_encoder=False", "--encoder_lr=0.001"]
SMALL = ["--num_workers=0", "--prep_workers=1", "--number_of_epochs=1", "--num_buckets=2"]


@pytest.fixture(scope="session")
def corpora(corpus: Path, iemocap: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every corpus in its layout: speech of the demo corpus, two seconds of noise."""
    root = tmp_path_factory.mktemp("corpora")
    (root / "LibriSpeech").symlink_to(corpus / "LibriSpeech")
    (root / iemocap.name).symlink_to(iemocap)
    draw = np.random.default_rng(0)

    def audio(path: Path, **options: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * draw.standard_normal(16000).astype(np.float32)
        soundfile.write(path, samples, 16000, **options)

    _write_common_voice(root / "cv-corpus-11.0-2022-09-21", audio)
    _write_slurp(root / "SLURP", audio)
    _write_voxceleb(root / "voxceleb1", audio)
    return root


def _write_common_voice(root: Path, audio: Callable[..., None]) -> None:
    pangram = "Sphinx of black quartz, judge my vow"
    for language in ("cy", "eu"):
        for split, count in (("train", 4), ("dev", 2), ("test", 2)):
            lines = ["client_id\tpath\tsentence"]
            for index in range(count):
                name = f"common_voice_{language}_{split}{index}.mp3"
                audio(root / language / "clips" / name, format="MP3")
                lines.append(f"{index:032d}\t{name}\t{pangram if index == 0 else 'a b'}")
            (root / language / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def _write_slurp(root: Path, audio: Callable[..., None]) -> None:
    for split, count in (("train", 6), ("devel", 3), ("test", 3)):
        lines = []
        for index in range(count):
            name = f"audio-{split}{index}.flac"
            audio(root / "audio" / "slurp_real" / name)
            record = {"slurp_id": index, "sentence": "x", "scenario": ("alarm", "music")[index % 2]}
            record |= {
                "action": "set",
                "tokens": [],
                "entities": [],
                "recordings": [{"file": name}],
            }
            lines.append(json.dumps(record) + "\n")
        folder = root / "dataset" / "slurp"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.jsonl").write_text("".join(lines))


def _write_voxceleb(root: Path, audio: Callable[..., None]) -> None:
    for speaker in ("id10001", "id10002", "id10270", "id10271"):
        for video in ("aaa", "bbb"):
            audio(root / "wav" / speaker / video / "00001.wav")
    one, two = "id10270/aaa/00001.wav", "id10271/aaa/00001.wav"
    trials = [f"1 {one} id10270/bbb/00001.wav", f"0 {one} {two}"]
    (root / "veri_test.txt").write_text("\n".join(trials) + "\n")


@pytest.fixture
def run_probe(encoder: Path, corpora: Path, run_recipe: RunRecipe, tmp_path: Path) -> RunRecipe:
    """Runs a YAML file at reduced width."""

    def run(name: str, *options: str) -> dict[str, Any]:
        given = [f"--encoder={encoder}", f"--data_folder={corpora}", *SMALL]
        if name.startswith("cv_"):
            given += [f"--clips_folder={tmp_path / 'clips'}", "--token_type=char"]
            given += ["--output_neurons=null"]
        if name not in ("slurp_scenario_linear", "iemocap_linear"):
            given.append(f"--head_options={HEADS[name.split('_')[-1]]}")
        if name.startswith("iemocap"):
            given.append("--fold=1")
        if name.startswith("librispeech"):
            given.append("--test_splits=[test-clean]")
        named = {option.split("=")[0] for option in options}
        kept = [option for option in given if option.split("=")[0] not in named]
        return run_recipe(HPARAMS / f"{name}.yaml", *kept, *options)

    return run


def test_the_table_lists_every_yaml() -> None:
    rows = load_table("mp3s").rows
    assert sorted(row.name for row in rows) == [path.stem for path in YAMLS]
    for row in rows:
        (stage,), (column,) = row.stages, row.published
        assert stage.recipe == HPARAMS / f"{row.name}.yaml" and stage.name == column.lower()


@pytest.mark.parametrize("name", [path.stem for path in YAMLS])
def test_every_yaml_trains_and_tests(name: str, run_probe: RunRecipe, encoder: Path) -> None:
    before = frozen_encoder(encoder).digest()
    result = run_probe(name, "--debug")
    assert result["optimizer_steps"] > 0 and 0 <= result["score"] <= 10_000
    assert f"{result['task']}_{result['probe']}" == name
    assert sum(result["layer_weights"]) == pytest.approx(1) and len(result["layer_weights"]) == 3
    assert len(set(result["layer_weights"])) > 1  # they have been trained
    assert result["architecture"]["freeze_encoder"] is True
    assert result["encoder_digests"] == {"before": before, "after": before}
    assert result["parameters"]["trainable"] < result["parameters"]["total"]
    assert frozen_encoder(encoder).digest() == before


@pytest.mark.parametrize("name", [path.stem for path in YAMLS])
def test_every_yaml_tunes_the_encoder(
    name: str, run_probe: RunRecipe, encoder: Path, tmp_path: Path
) -> None:
    before = frozen_encoder(encoder).digest()
    result = run_probe(name, "--debug", *TUNED)
    assert result["architecture"]["freeze_encoder"] is False
    assert result["encoder_digests"]["before"] == before != result["encoder_digests"]["after"]
    assert frozen_encoder(encoder).digest() == before
    left = frozen_encoder(tmp_path / "run")  # the tuned one, as layer_probes.py reads it
    assert left.digest() == result["encoder_digests"]["after"]


def test_a_tuned_run_goes_on_to_the_bit_and_is_tested_again(
    run_probe: RunRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*TUNED, "--number_of_epochs=2", "--ckpt_interval_steps=1"]
    whole = run_probe("slurp_scenario_linear", *options)
    stopped_folder = f"--output_folder={tmp_path / 'stopped'}"

    def stop(brain: SafeBrain) -> None:
        if brain.optimizer_step == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SafeBrain, "on_optimizer_step", stop)
        run_probe("slurp_scenario_linear", *options, stopped_folder)
    for more in ([], ["--test_only"]):
        again = run_probe("slurp_scenario_linear", *options, stopped_folder, *more)
        assert again["optimizer_steps"] == whole["optimizer_steps"] == 6
        same = ("encoder_digests", "metrics", "layer_weights")
        assert all(again[key] == whole[key] for key in same)


def test_two_ranks_tune_one_encoder(encoder: Path, corpora: Path, tmp_path: Path) -> None:
    options = [f"--encoder={encoder}", f"--data_folder={corpora}", *SMALL, *TUNED]
    options += ["--max_batch_ex=1"]
    result = run_on_two_ranks(HPARAMS / "slurp_scenario_linear.yaml", tmp_path / "run", *options)
    assert result["optimizer_steps"] == 3 and result["skipped_steps"] == 0
    assert frozen_encoder(tmp_path / "run").digest() == result["encoder_digests"]["after"]


def test_rates_fall_by_newbob_and_a_finished_run_is_resumed(
    run_probe: RunRecipe, tmp_path: Path
) -> None:
    """A threshold that no epoch meets: both rates are annealed after every epoch but the first."""
    options = ["--number_of_epochs=3", "--improvement_threshold=2", "--lr=0.001"]
    first = run_probe("slurp_scenario_bilstm", *options)
    (log,) = (tmp_path / "run").glob("train_log.txt")
    epochs = log.read_text().splitlines()
    head = [float(line.split(" lr: ")[1].split(",")[0]) for line in epochs]
    weights = [float(line.split("weights_lr: ")[1].split()[0]) for line in epochs]
    assert head == pytest.approx([0.001, 0.001, 0.0008], rel=1e-3)
    assert weights == pytest.approx([0.01, 0.01, 0.009], rel=1e-3)
    again = run_probe("slurp_scenario_bilstm", *options)
    assert again["metrics"] == first["metrics"]
    assert again["optimizer_steps"] == first["optimizer_steps"]


def test_folds_are_averaged(
    run_probe: RunRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("summarymixing_modules.probing.folds.FOLDS", (1, 2))  # of ten
    result = run_probe("iemocap_linear", "--fold=all")
    assert len(result["scores"]) == 2
    assert result["score"] == pytest.approx(np.mean(result["scores"]))
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["score"] == pytest.approx(result["score"])
    assert (tmp_path / "run" / "fold2" / "result.json").is_file()


def test_another_encoder_is_refused_in_the_same_folder(
    run_probe: RunRecipe, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_probe("slurp_scenario_linear")
    module = "summarymixing_modules.probing.encoder.ProbedEncoder.digest"
    monkeypatch.setattr(module, lambda _: "another")
    with pytest.raises(InputError, match="encoder_digest.*another --output_folder"):
        run_probe("slurp_scenario_linear")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iemocap_linear", ["--fold=12"], "--fold=12 must be all"),
        ("iemocap_linear", ["--language=cy"], "--language"),
        (
            "iemocap_linear",
            ["--encoder_lr=0.1"],
            "--encoder_lr has no effect with --freeze_encoder",
        ),
        ("slurp_scenario_linear", ["--probe=contextnet"], "--probe=contextnet must be one of"),
        ("slurp_scenario_linear", ["--head_options={size: 3}"], "--head_options.*size"),
        ("slurp_scenario_linear", ["--encoder=/nowhere"], "--encoder=/nowhere: no such folder"),
        ("librispeech_asr_bilstm", ["--task=slurp"], "--task=slurp must be one of"),
        ("librispeech_asr_bilstm", ["--sample_rate=8000"], "--sample_rate=8000"),
    ],
)
def test_bad_flags_are_told(
    name: str, options: list[str], message: str, run_probe: RunRecipe
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        run_probe(name, *options, "--debug")


def test_the_table_of_an_encoder(encoder: Path, corpora: Path, tmp_path: Path) -> None:
    """One of its rows; what the table does with many, other tests show on rows of no cost."""
    given = ["mp3s", "--rows", "slurp_scenario_linear", "--results", str(tmp_path), "--data"]
    given += [f"encoder={encoder}", f"slurp={corpora}", "--", *SMALL, "--device=cpu"]
    assert main(["tables", "run", *given]) == 0
    result = json.loads(
        (tmp_path / "mp3s/slurp_scenario_linear/accuracy/result.json").read_text(encoding="utf-8")
    )
    assert result["encoder"] == str(encoder)
    assert main(["tables", "report", "mp3s", "--results", str(tmp_path)]) == 0
    report = (tmp_path / "mp3s" / "report.md").read_text(encoding="utf-8")
    assert f"| slurp_scenario_linear |  |  | {result['score']:.4g} (56.9) |" in report


def test_every_trial_is_scored(run_probe: RunRecipe, tmp_path: Path) -> None:
    result = run_probe("voxceleb_xvector", "--debug")
    assert result["metrics"]["scored_trials"] == 2
    first, second = (tmp_path / "run" / "scores.txt").read_text().splitlines()
    assert first.startswith("1 id10270/aaa/00001.wav id10270/bbb/00001.wav ")
    assert -1 <= float(second.split()[-1]) <= 1


def test_shards_verify_the_same(encoder: Path, corpora: Path, same_from_shards: RunRecipe) -> None:
    """With the trials, of recordings whose names have dots."""
    head = f"--head_options={HEADS['xvector']}"
    options = [f"--encoder={encoder}", f"--data_folder={corpora}", *SMALL, head]
    assert 0 <= same_from_shards(HPARAMS / "voxceleb_xvector.yaml", *options)["score"] <= 100
