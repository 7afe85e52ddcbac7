"""Bundles: written whole, read without running anything in them."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from summarymixing_modules.bundles import BundleError, export_bundle, load_bundle, load_model
from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.errors import InputError

Forge = Callable[..., Path]


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_what_is_loaded_is_what_was_exported(content: RunContent, bundle: Path) -> None:
    loaded, original = load_bundle(bundle), content.load()
    samples_BL, lengths_B = torch.randn(2, 8000) / 10, torch.tensor([8000, 5000])
    with torch.inference_mode():
        ours = original.acoustic_features(samples_BL, lengths_B)
        theirs = loaded.acoustic_features(samples_BL, lengths_B)
        torch.testing.assert_close(theirs[0], ours[0], rtol=0, atol=0)
        expected, found = original.model(*ours)[0], loaded.model(*theirs)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert loaded.tokenizer.pieces() == original.tokenizer.pieces()
    assert loaded.normalize.count == 100 and not loaded.model.training
    assert (loaded.sample_rate, loaded.window_seconds, loaded.hop_length) == (16000, 12.5, 160)
    assert "| test-clean_wer | 12.35 |" in (bundle / "README.md").read_text()
    assert not [path for path in bundle.parent.iterdir() if path.name.startswith(".")]


def test_sentencepiece_travels(content: RunContent, tmp_path: Path) -> None:
    csv = tmp_path / "train.csv"
    words = "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE"
    csv.write_text(f"ID,duration,wav,spk_id,wrd\na,1.0,a.wav,s,{words}\n")
    tokenizer = SentencePieceTokenizer.train(csv, tmp_path, 29, "bpe")
    config = {**content.config, "tokenizer": "sentencepiece"}
    changed = dataclasses.replace(content, config=config, tokenizer=tokenizer)
    write_bundle(changed, tmp_path / "spm")
    loaded = load_bundle(tmp_path / "spm").tokenizer
    assert loaded.decode(loaded.encode("TWO TEN")) == "TWO TEN"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
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
        load_bundle(bundle)


def test_a_pickle_in_place_of_the_weights_does_not_run(forge: Forge, tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    stream = io.BytesIO()
    torch.save({"model": Payload(marker)}, stream)
    for data in (pickle.dumps(Payload(marker)), stream.getvalue()):
        with pytest.raises(BundleError, match=r"model.safetensors .* a pickle"):
            load_bundle(forge(model_safetensors=data))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload works


def test_yaml_does_not_run(bundle: Path, forge: Forge, tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    text = f"sample_rate: 16000\nx: !apply:os.mkdir ['{marker}']\n"
    (bundle / "hyperparams.yaml").write_text(text)
    load_model(bundle)  # has a manifest: the YAML file is not looked at
    with pytest.raises(BundleError, match=r"config.json is not JSON"):
        load_bundle(forge(config_json=text.encode()))
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest.json is not JSON"):
        load_model(bundle)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a\\b", "C:x"])
def test_names_with_path_tricks_are_refused(bundle: Path, name: str) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["config.json"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no plain file name"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "tokenizer.json"])
def test_links_out_of_the_folder_are_refused(bundle: Path, name: str) -> None:
    outside = bundle.parent / "outside"
    (bundle / name).rename(outside)
    (bundle / name).symlink_to(outside)
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(bundle)


def edit_class(config: dict[str, Any]) -> None:
    config["model"]["class"] = "subprocess.Popen"


def edit_mixer(config: dict[str, Any]) -> None:
    config["model"]["arguments"]["transformer"]["arguments"]["attention_type"] = "os"


def edit_features(config: dict[str, Any]) -> None:
    config["features"]["class"] = "os.system"


def edit_feature_argument(config: dict[str, Any]) -> None:
    config["features"]["n_mels"] = {"class": "CTCModel", "arguments": {}}


def edit_tokenizer(config: dict[str, Any]) -> None:
    config["tokenizer"] = "../tokenizer"


def edit_rate(config: dict[str, Any]) -> None:
    config["sample_rate"] = "16000"


def edit_width(config: dict[str, Any]) -> None:
    config["model"]["arguments"]["transformer"]["arguments"]["d_ffn"] = 10**9


def edit_vocabulary(config: dict[str, Any]) -> None:
    config["model"]["arguments"]["output_neurons"] = 30


def edit_norm(config: dict[str, Any]) -> None:
    config["normalize"]["norm_type"] = "sentence"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_class, r"'subprocess.Popen'\. Known"),
        (edit_mixer, "unknown attention_type 'os'"),
        (edit_features, "'os.system'. Known classes: Fbank"),
        (edit_feature_argument, "features.*no mapping of numbers"),
        (edit_tokenizer, "Known kinds: characters"),
        (edit_rate, "sample_rate is '16000'"),
        (edit_width, "d_ffn 1000000000, and no tensor of the weights is larger"),
        (edit_vocabulary, r"other shapes than the model for output\.weight"),
        (edit_norm, "norm_type=sentence should be none"),
    ],
)
def test_forged_configurations_are_refused(
    edit: Callable[[dict[str, Any]], None], message: str, forge_config: Forge
) -> None:
    with pytest.raises(InputError, match=message):
        load_bundle(forge_config(edit))


def test_tensors_that_do_not_fit_are_named(content: RunContent, forge: Forge) -> None:
    name = "model.output.bias"

    def with_tensors(tensors: dict[str, torch.Tensor]) -> Path:
        return forge(model_safetensors=safetensors.torch.save(tensors))

    missing = {n: t for n, t in content.tensors.items() if n != name}
    cases = {
        "lack output.bias": missing,
        "unexpected odd": {**content.tensors, "model.odd": torch.ones(1)},
        r"other shapes .*output.bias \(3,\) instead of \(29,\)": {**missing, name: torch.ones(3)},
        "other types .*output.bias torch.float64": {**missing, name: torch.ones(29).double()},
        "unexpected tensors: stray": {**content.tensors, "stray": torch.ones(1)},
    }
    for message, tensors in cases.items():
        with pytest.raises(BundleError, match=message):
            load_bundle(with_tensors(tensors))


def test_a_newer_format_and_no_bundle_are_told(bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text()) | {"format_version": 2}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="format 2.*install a newer"):
        load_bundle(bundle)
    with pytest.raises(BundleError, match="no folder"):
        load_bundle(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="is no bundle"):
        load_bundle(tmp_path / "empty")


def test_nothing_but_a_bundle_is_replaced(
    content: RunContent, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--overwrite"):
        write_bundle(content, bundle)
    write_bundle(content, bundle, overwrite=True)
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt"):
        write_bundle(content, bundle, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(InputError, match="no bundle, so it is not replaced"):
        write_bundle(content, tmp_path / "thesis", overwrite=True)
    assert (bundle / "notes.txt").exists() and (tmp_path / "thesis" / "chapter.tex").exists()
    (tmp_path / "empty").mkdir()
    write_bundle(content, tmp_path / "empty")
    load_bundle(tmp_path / "empty")


def test_an_export_that_fails_leaves_nothing(content: RunContent, tmp_path: Path) -> None:
    tensors = {**content.tensors, "model.odd": torch.ones(1)}
    with pytest.raises(BundleError, match="unexpected"):
        write_bundle(dataclasses.replace(content, tensors=tensors), tmp_path / "bad")
    assert not list(tmp_path.iterdir())


def test_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no output folder of a recipe"):
        export_bundle(tmp_path, tmp_path / "bundle")
