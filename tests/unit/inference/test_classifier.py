"""Classifiers on files: the same alone and in a batch, as text and JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from summarymixing_modules.bundles import load_bundle, load_classifier
from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.features import NORMALIZE_SETTINGS, feature_settings
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.bundles.ssl_encoder import SSLEncoder
from summarymixing_modules.cli import main
from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference import Classifier
from summarymixing_modules.models import ConvFrontEnd1d, TransformerASR
from summarymixing_modules.models.describe import describe
from summarymixing_modules.models.slu.classifier import ClassifierModel

RATE = 16000
LABELS = {"scenario": ["alarm", "music", "play"], "action": ["query", "set"]}


def content(**changes: Any) -> RunContent:
    """What a run of classification would give."""
    torch.manual_seed(0)
    size = {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 16, "kernel_size": 3}
    transformer = TransformerASR(1, 8, num_decoder_layers=0, **size)
    frontend = ConvFrontEnd1d(input_size=20, channels=(8, 8))
    model = ClassifierModel(frontend, transformer, list(LABELS), [3, 2]).eval()
    given = {"n_mels": 20, "n_fft": 400}
    normalize = InputNormalization(norm_type="sentence", avoid_padding_norm=True)
    config = {
        "kind": "classifier",
        "summarymixing_modules": "0.1.0",
        "sample_rate": RATE,
        "attention_type": "SummaryMixing",
        "mode": "SummaryMixing",
        "streaming": False,
        "averaged_checkpoints": 1,
        "window_seconds": 4.5,
        "labels": LABELS,
        "features": feature_settings(Fbank(**given), given),
        "normalize": {name: getattr(normalize, name) for name in NORMALIZE_SETTINGS},
        "model": describe(model),
    }
    weights = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    result = {"metrics": {"test_intent_acc": 81.25}}
    return RunContent({**config, **changes}, weights, None, result, Path("results/run"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(content(), tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.wav" for seed in range(4)]
    for seed, (path, seconds) in enumerate(zip(paths, (1.3, 0.4, 2.2, 0.02), strict=True)):
        torch.manual_seed(seed)
        samples_L = torch.randn(int(seconds * RATE)) / 5
        soundfile.write(path, samples_L.numpy(), RATE, subtype="FLOAT")
    return paths


def test_files_together_are_as_each_alone(bundle: Path, files: list[Path]) -> None:
    classifier = Classifier(load_classifier(bundle), batch_seconds=3)  # two batches
    seconds: list[float] = []
    together = list(classifier.classify(files, on_progress=seconds.append))
    assert [found.path for found in together] == files and len(seconds) == 3
    for found in together:
        (alone,) = classifier.classify([found.path])
        samples_L = torch.from_numpy(soundfile.read(found.path, dtype="float32")[0])
        in_memory = classifier.classify_samples(samples_L, RATE)
        assert found.duration == alone.duration == in_memory.duration
        for task, names in LABELS.items():
            ranked = found.tasks[task]
            assert sorted(each.label for each in ranked) == names
            probabilities = [each.probability for each in ranked]
            assert probabilities == sorted(probabilities, reverse=True)
            assert sum(probabilities) == pytest.approx(1)
            for other in (alone.tasks[task], in_memory.tasks[task]):
                assert [each.label for each in other] == [each.label for each in ranked]
                assert [each.probability for each in other] == pytest.approx(probabilities, 1e-4)


def test_the_command_line(
    bundle: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    given = ["classify", str(files[0]), "--model", str(bundle)]
    assert main(given) == 0
    (found,) = Classifier.from_path(bundle).classify(files[:1])
    best = {task: classes[0] for task, classes in found.tasks.items()}
    words = [f"{task}: {each.label} {each.probability:.3f}" for task, each in best.items()]
    assert capsys.readouterr().out == "\t".join([str(files[0]), *words]) + "\n"
    assert main(["classify", str(bad), *given[1:], "--format=json", "--top=2"]) == 1
    out = capsys.readouterr()
    line = json.loads(out.out)
    assert line["file"] == str(files[0]) and line["duration"] == 1.3 and "bad.wav" in out.err
    assert [len(classes) for classes in line["tasks"].values()] == [2, 2]
    assert line["tasks"]["action"][0]["label"] == best["action"].label
    for flags, message in (
        (["--top=0"], "--top=0 must be at least 1"),
        (["--max_seconds=-1"], "--max_seconds=-1 must be above 0"),
        (["--device=gpu"], "--device=gpu"),
    ):
        assert main([*given, *flags]) == 1 and message in capsys.readouterr().err


def test_a_long_recording_is_no_utterance(bundle: Path, files: list[Path]) -> None:
    classifier = Classifier(load_classifier(bundle), max_seconds=2.0)
    told: list[Path] = []
    assert len(list(classifier.classify(files, lambda path, _: told.append(path)))) == 3
    assert told == [files[2]]
    with pytest.raises(AudioError, match=r"longer than the 2 s .*trained on up to 4.5 s.*cut it"):
        list(classifier.classify(files))
    assert Classifier(load_classifier(bundle)).max_seconds == 30


def test_the_kinds_are_told_apart(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="classifier: it tells classes and writes no text.*classi"):
        load_bundle(bundle)
    assert main(["transcribe", str(bundle / "README.md"), "--model", str(bundle)]) == 1
    assert "summarymixing classify --model" in capsys.readouterr().err
    assert SSLEncoder.from_bundle(bundle).architecture["d_model"] == 8
    card = (bundle / "README.md").read_text()
    assert "3 classes of scenario; 2 classes of action" in card and "| 81.25 |" in card
    with pytest.raises(InputError, match="--speechbrain is for recognisers; results/run is a cl"):
        write_bundle(content(), tmp_path / "other", speechbrain=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"scenario": ["a"], "action": ["b", "c"]}}, "labels are not names"),
        ({"labels": {"scenario": [1, 2, 3], "action": ["b", "c"]}}, "labels are not names"),
        ({"labels": {}}, "labels are not names"),
        ({"window_seconds": "long"}, "window_seconds is 'long'"),
        ({"kind": "vocoder"}, "kind is 'vocoder'"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    changes: dict[str, Any], message: str, bundle: Path
) -> None:
    with pytest.raises(InputError, match=message):
        write_bundle(content(**changes), bundle, overwrite=True)
