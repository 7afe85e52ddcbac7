"""From a run of a recipe to a bundle and to transcripts, as a user does it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR, StreamingASR
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torchaudio.functional import resample

from summarymixing_modules.bundles import export_bundle, load_bundle
from summarymixing_modules.cli import main
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference import Recognizer, decoders
from summarymixing_modules.streaming import StreamingRecognizer

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes" / "LibriSpeech" / "ASR"
HPARAMS = RECIPES / "CTC" / "hparams"
RunRecipe = Callable[..., dict[str, Any]]

TINY = [
    "--num_encoder_layers=1",
    "--d_model=32",
    "--d_ffn=64",
    "--nhead=2",
    "--kernel_size=7",
    "--cnn_channels=[32, 32]",
    "--train_splits=[train-clean-100]",
    "--test_splits=[test-clean]",
    "--num_workers=0",
    "--avg_checkpoints=2",
    "--num_buckets=2",
]
# A model that has hardly begun to learn babbles; a little later it is silent for long.
BABBLE = ["--training_steps=8", "--warmup_steps=1", "--lr=1.0e-6"]


def hypotheses(run: Path) -> dict[str, list[str]]:
    """The words that the run's own test wrote down: the third line of each alignment."""
    lines = (run / "wer_test-clean.txt").read_text().splitlines()
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        if ", %WER" in line:
            words = [word.strip() for word in lines[number + 3].split(";")]
            found[line.split(",")[0]] = [word for word in words if word not in ("<eps>", "")]
    return found


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files but the log, which this process still has open."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "log.txt"]
    return {str(path): path.read_bytes() for path in files}


@pytest.fixture
def run(run_recipe: RunRecipe, tmp_path: Path) -> Path:
    """A run of the small CTC recipe that has been moved since."""
    run_recipe(HPARAMS / "small_conformer.yaml", *TINY, *BABBLE)
    return Path(shutil.move(tmp_path / "run", tmp_path / "moved"))


@pytest.fixture
def speech(corpus: Path) -> list[Path]:
    return sorted((corpus / "LibriSpeech" / "test-clean").rglob("*.flac"))


def test_folder_bundle_and_speechbrain_write_what_the_run_wrote(
    run: Path, speech: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, bundle = snapshot(run), tmp_path / "bundle"
    assert main(["export", str(run), str(bundle), "--speechbrain"]) == 0
    expected = [hypotheses(run)[path.stem] for path in speech]
    assert any(expected)
    monkeypatch.chdir(tmp_path)
    theirs = EncoderASR.from_hparams(source=str(bundle), savedir=str(tmp_path / "cache"))
    assert [theirs.transcribe_file(str(path)).split() for path in speech] == expected
    for load, source in ((Recognizer.from_path, bundle), (Recognizer.from_run, run)):
        recognizer = load(source, window_seconds=60)
        assert [found.text.split() for found in recognizer.transcribe(speech)] == expected
    assert snapshot(run) == before
    config = load_bundle(bundle).config
    assert config["averaged_checkpoints"] == 2 and config["window_seconds"] < 15
    card = (bundle / "README.md").read_text()
    error_rate = json.loads((run / "result.json").read_text())["test_wer"]
    assert f"| test-clean_wer | {error_rate:.4g}" in card


def test_all_formats_and_any_audio(
    run: Path, speech: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, rate = soundfile.read(speech[0], dtype="float32")
    narrow = resample(torch.from_numpy(samples), rate, 8000).numpy()
    folder = tmp_path / "audio"
    (folder / "deeper").mkdir(parents=True)
    soundfile.write(folder / "a.mp3", narrow[:, None].repeat(2, 1), 8000)
    soundfile.write(folder / "deeper" / "b.ogg", narrow[:, None].repeat(2, 1), 8000)
    shutil.copy(speech[0], folder / "c.flac")
    bundle = str(export_bundle(run, tmp_path / "bundle"))
    out = tmp_path / "out"
    for form in ("text", "json", "ctm", "srt"):
        options = ["--model", bundle, "--format", form, "--output", str(out)]
        assert main(["transcribe", str(folder), *options]) == 0
    names = {str(path.relative_to(out)) for path in out.rglob("*.*")}
    stems = ("a", "deeper/b", "c")
    assert names == {f"{s}.{suffix}" for s in stems for suffix in ("txt", "json", "ctm", "srt")}
    assert (out / "c.txt").read_text().split() == hypotheses(run)[speech[0].stem]
    for stem in stems:
        found = json.loads((out / f"{stem}.json").read_text())
        assert (out / f"{stem}.txt").read_text().strip() == found["text"]
        assert abs(found["duration"] - len(samples) / rate) < 0.15
        assert len((out / f"{stem}.ctm").read_text().splitlines()) == len(found["words"])
    assert "real-time factor" in capsys.readouterr().err
    again = ["transcribe", str(folder), "--model", bundle, "--output", str(out)]
    assert main(again) == 1 and "--overwrite" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0


def test_bad_files_and_flags_are_told(
    run: Path, speech: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF nothing")
    good = str(speech[0])
    odd = tmp_path / os.fsdecode(b"caf\xe9.flac")  # a name that is not UTF-8
    shutil.copy(speech[0], odd)
    mine = ["--model", str(run), "--trust_run"]
    assert main(["transcribe", str(bad), good, str(odd), *mine]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(good) and "bad.wav" in captured.err
    assert r"caf\udce9.flac" in captured.out
    copy = tmp_path / "x" / speech[0].name
    copy.parent.mkdir()
    shutil.copy(speech[0], copy)
    for arguments, message in (
        ([], "give audio files"),
        ([good, "--chunk_size=8"], "--chunk_size has no effect without --streaming"),
        ([good, "--streaming", "--batch_seconds=9"], "--batch_seconds has no effect"),
        ([good, "--streaming"], "LocalFbank"),
        (["--microphone"], "needs --streaming"),
        ([good, "--overwrite"], "--overwrite has no effect"),
        ([good, str(copy), "--format=srt"], "--output"),
        ([good, str(copy), f"--output={tmp_path / 'o'}"], "both be written"),
        ([str(tmp_path / "none*.wav")], "no such file"),
        ([good, "--device=gpu"], "--device=gpu"),
        ([good, "--window_seconds=0"], "--window_seconds=0"),
    ):
        assert main(["transcribe", *arguments, *mine]) == 1
        assert message in capsys.readouterr().err
    assert main(["transcribe", good, "--model", str(tmp_path / "nothing")]) == 1
    assert "no folder" in capsys.readouterr().err


def test_runs_that_cannot_be_exported_are_told(run: Path, tmp_path: Path) -> None:
    for path in (run / "save").glob("CKPT*"):
        shutil.rmtree(path)
    with pytest.raises(InputError, match="no checkpoint"):
        export_bundle(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_global_statistics_and_units_travel(
    run_recipe: RunRecipe, corpus: Path, speech: list[Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    for path in copy.rglob("*.trans.txt"):  # no training sentence has this letter
        path.write_text(path.read_text().replace("X", "S"))
    options = ["--token_type=unigram", "--output_neurons=60", "--streaming=True", "--lr=1.0e-6"]
    options += ["--number_of_epochs=1", "--cnn_channels=[4, 4]", f"--data_folder={copy}"]
    options += ["--padding_mode=zeros"]
    tiny = [option for option in TINY if not option.startswith("--cnn")]
    run_recipe(HPARAMS / "conformer.yaml", *tiny, *options)
    bundle = export_bundle(tmp_path / "run", tmp_path / "bundle", speechbrain=True)
    loaded = load_bundle(bundle)
    assert loaded.normalize.count > 0 and loaded.config["streaming"]
    expected = [hypotheses(tmp_path / "run")[path.stem] for path in speech]
    recognizer = Recognizer(loaded, window_seconds=60)
    assert [found.text.split() for found in recognizer.transcribe(speech)] == expected
    theirs = EncoderASR.from_hparams(source=str(bundle))
    assert [theirs.transcribe_file(str(path)).split() for path in speech] == expected


def test_a_transducer_travels_and_streams(
    run_recipe: RunRecipe,
    speech: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = ["--predictor_size=8", "--joint_size=12"]
    hparams = RECIPES / "transducer" / "hparams" / "small_conformer.yaml"
    run_recipe(hparams, *TINY, *sizes, *BABBLE)
    expected = [hypotheses(tmp_path / "run")[path.stem] for path in speech]
    bundle = str(export_bundle(tmp_path / "run", tmp_path / "bundle", speechbrain=True))
    recognizer = Recognizer.from_path(bundle, window_seconds=60)
    assert [found.text.split() for found in recognizer.transcribe(speech)] == expected
    theirs = EncoderDecoderASR.from_hparams(source=bundle)
    assert [theirs.transcribe_file(str(path)).split() for path in speech] == expected
    capsys.readouterr()
    options = ["--streaming", "--chunk_size=8", "--left_context_size=2", "--format=json"]
    assert main(["transcribe", *map(str, speech), "--model", bundle, *options]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in found] == [str(path) for path in speech]
    theirs = StreamingASR.from_hparams(source=bundle, hparams_file="streaming.yaml")
    ours = load_bundle(bundle)
    parts = (ours.model, ours.features, ours.normalize, ours.tokenizer)
    for path in speech:
        config = DynChunkTrainConfig(8, 2)
        texts = theirs.transcribe_file_streaming(str(path), config, use_torchaudio_streaming=False)
        stream = StreamingRecognizer(*parts, 8, 2)
        samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        # SpeechBrain's streams end with a chunk of silence.
        samples_1L = torch.cat([samples, torch.zeros(8 * 640)])[None]
        wanted, _ = stream.accept(samples_1L, stream.start())
        assert ["".join(texts)] == wanted


def test_a_decoder_travels(
    run_recipe: RunRecipe, speech: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--num_decoder_layers=1", "--decoder_nhead=2", "--test_beam_size=2"]
    sizes += ["--token_type=librispeech_char", "--output_neurons=31"]
    hparams = RECIPES / "transformer" / "hparams" / "small_conformer.yaml"
    run_recipe(hparams, *TINY, *sizes, *BABBLE, "--ctc_weight_decode=0.4", "--temperature=1.0")
    expected = [hypotheses(tmp_path / "run")[path.stem] for path in speech]
    bundle = export_bundle(tmp_path / "run", tmp_path / "bundle", speechbrain=True)
    yaml = bundle / "hyperparams.yaml"  # where one changes the search
    yaml.write_text(yaml.read_text().replace("beam_size: 10", "beam_size: 2"))
    theirs = EncoderDecoderASR.from_hparams(source=str(bundle))
    assert [theirs.transcribe_file(str(path)).split() for path in speech] == expected
    monkeypatch.setattr(decoders, "BEAM_SIZE", 2)
    recognizer = Recognizer.from_path(bundle, window_seconds=60)
    assert [found.text.split() for found in recognizer.transcribe(speech)] == expected
