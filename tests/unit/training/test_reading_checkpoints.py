"""Checkpoints that are damaged, and those that somebody reads while a training deletes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from summarymixing_modules.bundles.initialisation import initialise_from
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.run.averaging import load_average
from summarymixing_modules.training.run.checkpoint_files import (
    ATTEMPTS,
    DamagedCheckpointError,
    while_they_last,
)
from summarymixing_modules.training.run.checkpoint_folders import delete
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer


def make(folder: Path, **options: Any) -> tuple[AtomicCheckpointer, torch.nn.Linear]:
    """A checkpointer of one small layer."""
    layer = torch.nn.Linear(2, 2)
    return AtomicCheckpointer(folder, {"model": layer}, **options), layer


def fill(layer: torch.nn.Linear, value: float) -> None:
    """Weights that are known again."""
    layer.weight.data.fill_(value)


@pytest.fixture
def slow_unlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files take their time to go."""
    unlink = os.unlink

    def slow(*arguments: Any, **options: Any) -> None:
        time.sleep(0.05)
        unlink(*arguments, **options)

    monkeypatch.setattr(os, "unlink", slow)


def meanwhile(*actions: Callable[[], object]) -> None:
    """Do things at the same time; none may fail."""
    errors: list[BaseException] = []

    def caught(action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caught, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_reader_leaves_everything_as_it_is(tmp_path: Path) -> None:
    """Whatever it finds: the half deletions and saves of a training are that training's."""
    checkpointer, _ = make(tmp_path)
    checkpointer.save_checkpoint(name="a")
    for name in (".deleting+CKPT+b", ".replaced+CKPT+c", ".saving+elsewhere+1"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1e9, 1e9))
    before = sorted(path.name for path in tmp_path.iterdir())
    reader, _ = make(tmp_path, read_only=True)
    assert [c.path.name for c in reader.list_checkpoints()] == ["CKPT+a"]
    for forbidden in (reader.clean_up, reader.save_checkpoint, reader.delete_checkpoints):
        with pytest.raises(RuntimeError, match="read only"):
            forbidden()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    absent, _ = make(tmp_path / "absent", read_only=True)
    assert absent.list_checkpoints() == [] and not (tmp_path / "absent").exists()


def test_a_reader_beside_a_deletion(tmp_path: Path, slow_unlink: None) -> None:
    """Neither the training that deletes nor a start, a reader or another deletion dies of it."""
    trainer, _ = make(tmp_path)
    trainer.save_checkpoint(name="old")
    trainer.save_checkpoint(name="new")
    other, _ = make(tmp_path)

    def start_later() -> None:
        time.sleep(0.02)
        other.clean_up()

    meanwhile(
        lambda: trainer.delete_checkpoints(num_to_keep=1),
        lambda: [make(tmp_path, read_only=True)[0].find_checkpoint() for _ in range(20)],
        start_later,
        lambda: other.delete_checkpoints(num_to_keep=1),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["CKPT+new"]
    delete(tmp_path / "CKPT+old")  # again


def initialise(folder: Path, layer: torch.nn.Linear) -> None:
    initialise_from(folder, {"model": layer}, {})


def average(folder: Path, layer: torch.nn.Linear) -> None:
    reader = AtomicCheckpointer(folder, {"model": layer}, read_only=True)
    while_they_last(lambda: load_average(reader, reader.find_checkpoints()))


def evaluate(folder: Path, layer: torch.nn.Linear) -> None:
    checkpointer = AtomicCheckpointer(folder, {"model": layer})
    run_opts = {"test_only": True, "device": "cpu"}
    SafeBrain({"model": layer}, run_opts=run_opts, checkpointer=checkpointer).on_evaluate_start()
    assert checkpointer.read_only


@pytest.mark.parametrize("read", [initialise, average, evaluate])
def test_a_checkpoint_that_goes_while_it_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path, torch.nn.Linear], None],
) -> None:
    """The one that is there then is read, by all who read a run."""
    trainer, trained = make(tmp_path)
    fill(trained, 1.0)
    trainer.save_checkpoint(name="old")
    verify = AtomicCheckpointer.verify

    def verify_before_it_goes(self: AtomicCheckpointer, *arguments: Any) -> None:
        verify(self, *arguments)
        if (old := tmp_path / "CKPT+old").exists():
            fill(trained, 2.0)
            trainer.save_checkpoint()
            shutil.rmtree(old)

    monkeypatch.setattr(AtomicCheckpointer, "verify", verify_before_it_goes)
    layer = torch.nn.Linear(2, 2)
    read(tmp_path, layer)
    assert torch.equal(layer.weight, torch.full((2, 2), 2.0))


def test_what_goes_again_and_again(tmp_path: Path) -> None:
    checkpointer, _ = make(tmp_path)
    tries: list[Path] = []

    def read() -> None:
        tries.append(tmp_path / f"CKPT+{len(tries)}" / "model.ckpt")
        tries[-1].read_bytes()

    with pytest.raises(InputError, match=r"faster than they can be read"):
        while_they_last(read)
    assert len(tries) == ATTEMPTS
    with pytest.raises(FileNotFoundError):  # of something else
        while_they_last(lambda: (tmp_path / "text").read_text())


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda c: flip(c / "model.ckpt"), r"model.ckpt \(\d+ bytes\) is not what was saved"),
        (lambda c: os.truncate(c / "model.ckpt", 100), r"model.ckpt \(100 bytes\) is not what"),
        (lambda c: os.truncate(c / "model.ckpt", 0), "model.ckpt is empty"),
        (lambda c: (c / "model.ckpt").unlink(), "model.ckpt is missing"),
        (lambda c: (c / "CKPT.yaml").unlink(), "it has no CKPT.yaml"),
        (lambda c: os.truncate(c / "CKPT.yaml", 0), "CKPT.yaml is not whole"),
        (lambda c: (c / "CKPT.yaml").write_bytes(b"\xff{"), "CKPT.yaml is not readable"),
        (lambda c: os.truncate(c / "SHA256SUMS", 10), "SHA256SUMS does not list CKPT.yaml"),
        (lambda c: [file.unlink() for file in c.iterdir()], "it has no CKPT.yaml"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_kept(
    tmp_path: Path, harm: Callable[[Path], object], told: str
) -> None:
    """Refused by all who load it; the way out that the message names works."""
    folder = tmp_path / "a run"
    checkpointer, layer = make(folder)
    for value in (1.0, 2.0):
        fill(layer, value)
        checkpointer.save_checkpoint(name=f"{value:.0f}", meta={"loss": -value})
    damaged = folder / "CKPT+2"
    harm(damaged)
    files = sorted(file.name for file in damaged.iterdir())
    loads: list[Callable[[], object]] = [
        checkpointer.recover_if_possible,
        lambda: load_average(checkpointer, checkpointer.find_checkpoints(min_key="loss")),
        lambda: initialise_from(folder, {"model": torch.nn.Linear(2, 2)}, {}),
    ]
    for load in loads:
        with pytest.raises(
            DamagedCheckpointError, match=rf"{re.escape(str(damaged))} is damaged.*{told}"
        ) as error:
            load()
    assert sorted(file.name for file in damaged.iterdir()) == files
    remedy = str(error.value).rpartition("taken: ")[2]
    subprocess.run(remedy, shell=True, check=True)
    assert checkpointer.recover_if_possible().path.name == "CKPT+1"
    assert torch.equal(layer.weight, torch.full((2, 2), 1.0))
    assert (folder / "damaged+CKPT+2").is_dir()


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    checkpointer, _ = make(tmp_path)
    checkpointer.save_checkpoint(name="a")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=tmp_path / "CKPT+a",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "CKPT.yaml: OK\nmodel.ckpt: OK\n"


def test_without_sums_it_is_loaded_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer, _ = make(tmp_path)
    checkpointer.save_checkpoint(name="a")
    (tmp_path / "CKPT+a" / "SHA256SUMS").unlink()
    checkpointer.recover_if_possible()
    assert "whether it is damaged cannot be told" in caplog.text
