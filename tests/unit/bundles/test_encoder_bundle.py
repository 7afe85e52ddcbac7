"""Bundles of encoders: as safe as those of recognisers, and not taken for them."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from summarymixing_modules.bundles import BundleError, SSLEncoder, load_bundle, load_model
from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.kinds import encoder_part
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.cli import main
from summarymixing_modules.errors import InputError

Forge = Callable[..., Path]


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.marker,)


@pytest.fixture
def encoder_content(content: RunContent) -> RunContent:
    """What a run of pre-training would give."""
    config, tensors = encoder_part(content.config, content.tensors)
    config = {**config, "trained_as": "BestRQModel"}
    for key in ("tokenizer", "streaming"):
        del config[key]
    result = {"metrics": {"valid_accuracy": 12.345}}
    return RunContent(config, tensors, None, result, Path("results/pretrained"))


@pytest.fixture
def bundle(encoder_content: RunContent, tmp_path: Path) -> Path:
    """In the place of the recogniser's: the forgers work on this one."""
    folder = tmp_path / "encoder"
    write_bundle(encoder_content, folder)
    return folder


def test_what_is_loaded_is_what_was_exported(encoder_content: RunContent, bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    assert config["kind"] == "encoder" and config["model"]["class"] == "AcousticEncoder"
    stored = safetensors.torch.load_file(bundle / "model.safetensors")
    assert not [name for name in stored if "output" in name]
    loaded = SSLEncoder.from_bundle(bundle)
    for name, tensor in loaded.encoder.state_dict().items():
        assert torch.equal(tensor, encoder_content.tensors[f"model.{name}"])
    assert torch.equal(loaded.normalize.glob_mean, encoder_content.tensors["normalize.glob_mean"])
    assert {path.name for path in bundle.iterdir()} == {
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
    }
    card = (bundle / "README.md").read_text()
    assert "| valid_accuracy | 12.35 |" in card and "BestRQModel" in card
    assert "transcribe" not in card and "SSLEncoder.from_bundle" in card


def test_an_encoder_writes_no_text(
    encoder_content: RunContent, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for load in (load_bundle, load_model):
        with pytest.raises(BundleError, match="encoder: it has no output layer.*Fine-tune"):
            load(bundle)
    with pytest.raises(BundleError, match=r"results/pretrained is a pre-trained encoder"):
        encoder_content.load()
    audio = bundle / "README.md"
    assert main(["transcribe", str(audio), "--model", str(bundle)]) == 1
    assert "pre-trained encoder" in capsys.readouterr().err
    with pytest.raises(InputError, match="--speechbrain is for recognisers"):
        write_bundle(encoder_content, bundle.with_name("other"), speechbrain=True)


def test_bundles_of_the_first_version_are_recognisers(content: RunContent, tmp_path: Path) -> None:
    assert "kind" not in content.config
    write_bundle(content, tmp_path / "old")
    assert load_bundle(tmp_path / "old").tokenizer.vocab_size == 29


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_damage_is_found(bundle: Path, name: str, damage: str) -> None:
    path = bundle / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-5])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    words = {"missing": "is missing", "truncated": "truncated", "flipped": "SHA-256"}
    with pytest.raises(BundleError, match=f"{name}.*{words[damage]}"):
        SSLEncoder.from_bundle(bundle)


def test_nothing_in_it_runs(bundle: Path, forge: Forge, tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    stream = io.BytesIO()
    torch.save({"model": Payload(marker)}, stream)
    text = f"x: !apply:os.mkdir ['{marker}']\n"
    (bundle / "hyperparams.yaml").write_text(text)
    SSLEncoder.from_bundle(bundle)  # has a manifest: the YAML file is not looked at
    for data in (pickle.dumps(Payload(marker)), stream.getvalue()):
        with pytest.raises(BundleError, match=r"model.safetensors .* a pickle"):
            SSLEncoder.from_bundle(forge(model_safetensors=data))
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest.json is not JSON"):
        SSLEncoder.from_bundle(bundle)
    assert not marker.exists()


def test_paths_and_newer_formats_are_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    tricked = {**manifest["files"], "../x": manifest["files"]["config.json"]}
    for change, message in (
        ({"files": tricked}, "no plain file name"),
        ({"format_version": 2}, "format 2.*install a newer"),
    ):
        (bundle / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(BundleError, match=message):
            SSLEncoder.from_bundle(bundle)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "config.json").rename(bundle.parent / "outside")
    (bundle / "config.json").symlink_to(bundle.parent / "outside")
    with pytest.raises(BundleError, match="outside the bundle"):
        SSLEncoder.from_bundle(bundle)


def edit_kind(config: dict[str, Any]) -> None:
    config["kind"] = "vocoder"


def edit_kind_only(config: dict[str, Any]) -> None:
    config["kind"] = "recogniser"


def edit_class(config: dict[str, Any]) -> None:
    config["model"]["class"] = "subprocess.Popen"


def edit_to_recogniser(config: dict[str, Any]) -> None:
    config["model"]["class"] = "CTCModel"
    config["model"]["arguments"]["output_neurons"] = 29


def edit_mixer(config: dict[str, Any]) -> None:
    config["model"]["arguments"]["transformer"]["arguments"]["attention_type"] = "RoPEMHA"
    config["model"]["arguments"]["transformer"]["arguments"]["mixer_options"] = None


def edit_width(config: dict[str, Any]) -> None:
    config["model"]["arguments"]["transformer"]["arguments"]["d_ffn"] = 10**9


def edit_features(config: dict[str, Any]) -> None:
    config["features"]["class"] = "os.system"


def edit_rate(config: dict[str, Any]) -> None:
    del config["sample_rate"]


def edit_model(config: dict[str, Any]) -> None:
    config["model"] = "AcousticEncoder"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_kind, "kind is 'vocoder'.*install a newer"),
        (edit_class, "holds a 'subprocess.Popen'"),
        (edit_to_recogniser, "holds a 'CTCModel'"),
        (edit_mixer, "they lack encoder|do not fit the model: they lack"),
        (edit_width, "d_ffn 1000000000, and no tensor of the weights is larger"),
        (edit_features, "'os.system'. Known classes: Fbank"),
        (edit_rate, "sample_rate is None"),
        (edit_model, "holds a None"),
    ],
)
def test_forged_configurations_are_refused(
    edit: Callable[[dict[str, Any]], None], message: str, forge_config: Forge
) -> None:
    with pytest.raises(InputError, match=message):
        SSLEncoder.from_bundle(forge_config(edit))


def test_an_encoder_that_calls_itself_a_recogniser_is_refused(forge_config: Forge) -> None:
    with pytest.raises(BundleError, match="tokenizer is None"):
        load_bundle(forge_config(edit_kind_only))


def test_tensors_that_do_not_fit_are_named(encoder_content: RunContent, forge: Forge) -> None:
    tensors = encoder_content.tensors
    name = "model.frontend.convs.0.bias"
    cases = {
        "lack frontend.convs.0.bias": {n: t for n, t in tensors.items() if n != name},
        "unexpected output.bias": {**tensors, "model.output.bias": torch.ones(29)},
        r"other shapes .*\(3,\) instead of \(8,\)": {**tensors, name: torch.ones(3)},
        "unexpected tensors: stray": {**tensors, "stray": torch.ones(1)},
    }
    for message, changed in cases.items():
        with pytest.raises(BundleError, match=message):
            SSLEncoder.from_bundle(forge(model_safetensors=safetensors.torch.save(changed)))


def test_an_export_that_fails_leaves_nothing(encoder_content: RunContent, tmp_path: Path) -> None:
    tensors = {**encoder_content.tensors, "model.odd": torch.ones(1)}
    with pytest.raises(BundleError, match="unexpected"):
        write_bundle(replace(encoder_content, tensors=tensors), tmp_path / "bad")
    assert not list(tmp_path.iterdir())
