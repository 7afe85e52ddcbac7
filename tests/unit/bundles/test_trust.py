"""Nothing of a folder that somebody sent is run, unless whoever loads it says that it may be."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from summarymixing_modules.bundles import SSLEncoder, fine_tuning, load_classifier, load_model
from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.initialisation import initialise_from
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.cli import main
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference import Classifier, Recognizer
from summarymixing_modules.probing.encoder import frozen_encoder
from summarymixing_modules.training.recipe.reads import keys_read
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer
from tests.unit.bundles.conftest import tiny_model

Load = Callable[[Path], object]


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def fine_tune(folder: Path, trust_run: object = False) -> object:
    hparams: dict[str, Any] = dict.fromkeys(keys_read(fine_tuning.__file__))
    hparams |= {"encoder": folder, "save_folder": folder.parent / "mine", "trust_run": trust_run}
    return fine_tuning.start_fine_tuning(hparams)


def initialise(folder: Path, trust_run: bool = False) -> None:
    initialise_from(folder, {"model": tiny_model()}, {}, trust_run=trust_run)


REFUSING: dict[str, Load] = {
    "load_model": load_model,
    "load_classifier": load_classifier,
    "Recognizer": Recognizer.from_path,
    "Classifier": Classifier.from_path,
    "SSLEncoder": SSLEncoder.from_bundle,
    "--encoder of probes": frozen_encoder,
    "--encoder of fine-tuning": fine_tune,
    "--init_from": initialise,
    "the word no": lambda folder: fine_tune(folder, "no"),
}
RUNNING: dict[str, Load] = {
    "load_model": lambda folder: load_model(folder, trust_run=True),
    "load_classifier": lambda folder: load_classifier(folder, trust_run=True),
    "Recognizer": Recognizer.from_run,
    "Classifier": Classifier.from_run,
    "SSLEncoder": SSLEncoder.from_run,
    "--encoder of probes": lambda folder: frozen_encoder(folder, trust_run=True),
    "--encoder of fine-tuning": lambda folder: fine_tune(folder, True),
    "--init_from": lambda folder: initialise(folder, trust_run=True),
}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What payloads make."""
    return tmp_path / "pwned"


@pytest.fixture
def sent(tmp_path: Path, marker: Path) -> Path:
    """A folder that looks like a run, with a payload in its YAML file and checkpoints of a model
    that is not ours."""
    folder = tmp_path / "sent"
    AtomicCheckpointer(folder / "save", {"model": nn.Linear(2, 3)}).save_checkpoint()
    payload = f"!apply:os.mkdir ['{marker}']"
    yaml = f"output_folder: {folder}\nmodel: {payload}\nnormalize: null\ncompute_features: null\n"
    (folder / "hyperparams.yaml").write_text(yaml)
    return folder


@pytest.mark.parametrize("load", REFUSING.values(), ids=REFUSING)
def test_a_run_is_not_loaded_unasked(load: Load, sent: Path, marker: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)sent is no bundle.*code.*--trust_run.*from_run"):
        load(sent)
    assert not marker.exists()


@pytest.mark.parametrize("load", RUNNING.values(), ids=RUNNING)
def test_a_run_that_is_trusted_is_code(load: Load, sent: Path, marker: Path) -> None:
    """The payload works: what is tested above is not an accident."""
    with pytest.raises(InputError, match="compute_features is a NoneType"):
        load(sent)
    assert marker.exists()


@pytest.mark.parametrize("command", ["transcribe", "classify"])
def test_the_command_line(
    command: str, sent: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [command, str(sent / "hyperparams.yaml"), "--model", str(sent)]
    assert main(given) == 1
    assert "--trust_run" in capsys.readouterr().err and not marker.exists()
    assert main([*given, "--trust_run"]) == 1
    assert marker.exists()


def test_a_bundle_that_lost_its_manifest_is_no_run_of_ones_own(
    content: RunContent, tmp_path: Path
) -> None:
    write_bundle(content, tmp_path / "bundle", speechbrain=True)
    (tmp_path / "bundle" / "manifest.json").unlink()
    with pytest.raises(InputError, match="ask for a bundle"):
        load_model(tmp_path / "bundle")


def test_checkpoints_of_the_same_model_are_plain_tensors(tmp_path: Path, marker: Path) -> None:
    """Of a run of the same model --init_from takes the weights without running anything."""
    folder, model = tmp_path / "sent", tiny_model()
    source = AtomicCheckpointer(folder / "save", {"model": tiny_model()})
    checkpoint = source.save_checkpoint()
    assert checkpoint is not None
    (folder / "hyperparams.yaml").write_text(f"model: !apply:os.mkdir ['{marker}']\n")
    initialise_from(folder, {"model": model}, {})
    for name, tensor in source.recoverables["model"].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    weights = checkpoint.paramfiles["model"]
    for payload in (pickle.dumps(Payload(marker)), b"!!python/object/apply:os.mkdir [x]"):
        weights.write_bytes(payload)
        with pytest.raises((InputError, pickle.UnpicklingError)):
            initialise_from(folder, {"model": model}, {})
    assert not marker.exists()
