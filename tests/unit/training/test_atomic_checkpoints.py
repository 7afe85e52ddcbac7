"""AtomicCheckpointer: whole or absent, plain meta, and one error for another architecture."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from speechbrain.utils.checkpoints import Checkpoint, average_checkpoints

from summarymixing_modules.training.run.checkpoint_files import SaveError
from summarymixing_modules.training.run.checkpoints import (
    ArchitectureMismatchError,
    AtomicCheckpointer,
)


def make(folder: Path, size: int = 2, **options: Any) -> tuple[AtomicCheckpointer, torch.nn.Linear]:
    """A checkpointer of one small layer."""
    layer = torch.nn.Linear(size, size)
    return AtomicCheckpointer(folder, {"model": layer}, **options), layer


def save(checkpointer: AtomicCheckpointer, **options: Any) -> Checkpoint:
    """Save, as rank 0 does, which gets the checkpoint."""
    saved = checkpointer.save_checkpoint(**options)
    assert saved is not None
    return saved


def names(folder: Path) -> list[str]:
    """All that lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_save_and_recover(tmp_path: Path) -> None:
    checkpointer, layer = make(tmp_path)
    saved = save(checkpointer, meta={"WER": 3.0})
    assert names(tmp_path) == [saved.path.name]
    assert saved.meta["WER"] == 3.0
    assert saved.paramfiles == {"model": saved.path / "model.ckpt"}
    before = layer.weight.clone()
    layer.weight.data.zero_()
    assert checkpointer.recover_if_possible(min_key="WER").path == saved.path
    assert torch.equal(layer.weight, before)


def test_nothing_is_visible_until_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved files exist under a hidden name only; they are flushed before the rename."""
    checkpointer, _ = make(tmp_path)
    onlooker, _ = make(tmp_path)
    events: list[str] = []
    rename, fsync = os.rename, os.fsync

    def watch(module: torch.nn.Module, path: Path) -> None:
        assert onlooker.list_checkpoints() == []
        assert not [name for name in names(tmp_path) if not name.startswith(".saving+")]
        Path(path).write_text("written")
        events.append("written")

    def watch_rename(*paths: Path) -> None:
        events.append("renamed")
        rename(*paths)

    def watch_fsync(descriptor: int) -> None:
        events.append("flushed")
        fsync(descriptor)

    checkpointer.custom_save_hooks["model"] = watch
    monkeypatch.setattr(os, "rename", watch_rename)
    monkeypatch.setattr(os, "fsync", watch_fsync)
    checkpointer.save_checkpoint()
    # The files of the meta, the model and the sums, and their folder; then the name, then the
    # folder that has it.
    assert events == ["written", *["flushed"] * 4, "renamed", "flushed"]
    assert len(checkpointer.list_checkpoints()) == 1


def test_a_save_that_fails_leaves_the_old_ones(tmp_path: Path) -> None:
    checkpointer, layer = make(tmp_path)
    first = save(checkpointer)

    def full_disk(module: torch.nn.Module, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_for_torch(module: torch.nn.Module, path: Path) -> None:
        with open("/dev/full", "wb") as stream:
            torch.save(module.state_dict(), stream)

    told = rf"No space left.*\n*.*{re.escape(first.path.name)} is still there.*make room.*same comm"
    for hook in (full_disk, full_for_torch):
        checkpointer.custom_save_hooks["model"] = hook
        with pytest.raises(SaveError, match=told):
            checkpointer.save_checkpoint()
        assert names(tmp_path) == [first.path.name], "what was written of it is removed"
    del checkpointer.custom_save_hooks["model"]
    second = save(checkpointer)
    assert names(tmp_path) == sorted([first.path.name, second.path.name])


def test_a_name_is_replaced_in_one_step(tmp_path: Path) -> None:
    checkpointer, layer = make(tmp_path)
    checkpointer.save_checkpoint(name="best")
    layer.weight.data.fill_(5.0)
    saved = save(checkpointer, name="best")
    assert names(tmp_path) == ["CKPT+best"]
    assert torch.load(saved.paramfiles["model"])["weight"][0, 0] == 5.0


def test_keeps_the_best_and_the_most_recent(tmp_path: Path) -> None:
    checkpointer, _ = make(tmp_path)
    for wer in (30.0, 10.0, 20.0, 25.0):
        checkpointer.save_and_keep_only(meta={"WER": wer}, min_keys=["WER"], num_to_keep=2)
    by_wer = [c.meta["WER"] for c in checkpointer.find_checkpoints(min_key="WER")]
    assert by_wer == [10.0, 20.0, 25.0]
    checkpointer.delete_checkpoints(num_to_keep=1, max_keys=["WER"], importance_keys=[])
    assert [c.meta["WER"] for c in checkpointer.list_checkpoints()] == [25.0]
    # SpeechBrain's method grows its default list of keys at every call.
    for wer in (40.0, 50.0):
        checkpointer.save_and_keep_only(meta={"WER": wer}, min_keys=["WER"], keep_recent=False)
    assert [c.meta["WER"] for c in checkpointer.list_checkpoints()] == [25.0]
    with pytest.raises(ValueError, match="at least 0"):
        checkpointer.delete_checkpoints(num_to_keep=-1)


def test_deleting_hides_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the middle of a deletion leaves no half checkpoint, and the next start cleans."""
    checkpointer, _ = make(tmp_path)
    saved = save(checkpointer)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        checkpointer.delete_checkpoints(num_to_keep=0)
    assert names(tmp_path) == [f".deleting+{saved.path.name}"]
    assert checkpointer.list_checkpoints() == []
    checkpointer.clean_up()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        (f".saving+{socket.gethostname()}+{os.getpid()}", True),  # ours, before we saved anything
        (f".saving+{socket.gethostname()}+999999999", True),  # no such process
        (f".saving+{socket.gethostname()}+1", False),  # a live process
        (".saving+elsewhere+1", False),  # another host, just written
        (".saving+other-name", False),
        (".saving", False),
        (".deleting+notes", False),
        ("results", False),
    ],
    # The same in every process of a parallel run, which the names are not.
    ids=["own", "dead", "alive", "elsewhere", "no-number", "no-name", "not-ours", "visible"],
)
def test_cleans_only_dead_saves_of_its_own(tmp_path: Path, name: str, goes: bool) -> None:
    (tmp_path / name / "CKPT+x").mkdir(parents=True)
    (tmp_path / name / "CKPT+x" / "model.ckpt").write_text("half")
    make(tmp_path)[0].clean_up()
    assert (tmp_path / name).exists() != goes


def test_cleans_old_saves_of_other_hosts(tmp_path: Path) -> None:
    folder = tmp_path / ".saving+elsewhere+1"
    folder.mkdir()
    os.utime(folder, (1e9, 1e9))
    make(tmp_path)[0].clean_up()
    assert names(tmp_path) == []


def test_a_replacement_that_was_killed_is_undone(tmp_path: Path) -> None:
    checkpointer, _ = make(tmp_path)
    saved = save(checkpointer, name="best")
    saved.path.rename(tmp_path / ".replaced+CKPT+best")
    checkpointer.clean_up()
    assert [c.path for c in checkpointer.list_checkpoints()] == [saved.path]


def test_meta_becomes_plain_numbers(tmp_path: Path) -> None:
    checkpointer, _ = make(tmp_path)
    meta = {
        "numpy": np.float64(1.5),
        "integer": np.int64(3),
        "tensor": torch.tensor(2.5),
        "one": torch.tensor([4]),
        "list": [np.float32(0.5), "text", None, True],
    }
    checkpointer.save_checkpoint(meta=meta)
    (listed,) = checkpointer.list_checkpoints()
    got = {key: listed.meta[key] for key in meta}
    assert got == {
        "numpy": 1.5,
        "integer": 3,
        "tensor": 2.5,
        "one": 4,
        "list": [0.5, "text", None, True],
    }


@pytest.mark.parametrize("value", [torch.zeros(2), np.zeros((2, 2)), object()])
def test_meta_that_is_no_scalar_is_refused(tmp_path: Path, value: Any) -> None:
    checkpointer, _ = make(tmp_path)
    with pytest.raises(TypeError, match=r"meta\[stats\]\[0\] must be"):
        checkpointer.save_checkpoint(meta={"stats": [value]})
    assert checkpointer.list_checkpoints() == []


def test_a_nan_metric_is_never_the_best(tmp_path: Path) -> None:
    checkpointer, _ = make(tmp_path)
    for wer in (float("nan"), 7.0, float("nan"), 5.0, float("nan")):
        checkpointer.save_checkpoint(meta={"WER": wer})
    assert [c.meta["WER"] for c in checkpointer.find_checkpoints(min_key="WER")] == [5.0, 7.0]
    assert [c.meta["WER"] for c in checkpointer.find_checkpoints(max_key="WER")] == [7.0, 5.0]
    assert len(checkpointer.find_checkpoints()) == 5


def test_averaging_works(tmp_path: Path) -> None:
    checkpointer, layer = make(tmp_path)
    for value in (1.0, 2.0, 6.0):
        layer.weight.data.fill_(value)
        checkpointer.save_checkpoint(meta={"loss": value})
    best = checkpointer.find_checkpoints(min_key="loss", max_num_checkpoints=2)
    assert average_checkpoints(best, "model")["weight"][0, 0] == 1.5


def test_another_architecture_is_one_clear_error(tmp_path: Path) -> None:
    """Named before any weight is loaded, even where the weights would fit."""
    made_with = {"attention_type": "SummaryMixing", "d_model": 2, "mode": "lite"}
    checkpointer, layer = make(tmp_path, architecture=made_with)
    checkpointer.save_checkpoint()
    asked_for = {"attention_type": "RoPEMHA", "d_model": np.int64(4), "nhead": 2}
    other, other_layer = make(tmp_path, size=4, architecture=asked_for)
    before = other_layer.weight.clone()
    with pytest.raises(ArchitectureMismatchError) as error:
        other.recover_if_possible()
    message = str(error.value)
    assert "attention_type SummaryMixing, d_model 2" in message
    assert "attention_type RoPEMHA, d_model 4" in message
    assert "--attention_type=SummaryMixing --d_model=2" in message
    assert "nhead" not in message and "lite" not in message
    assert "weight" not in message and "\n" not in message
    assert torch.equal(other_layer.weight, before)


def test_weights_that_do_not_fit_are_one_short_error(tmp_path: Path) -> None:
    """Checkpoints without a stored architecture."""
    checkpointer, _ = make(tmp_path)
    checkpointer.save_checkpoint()
    layers = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(50)])
    other = AtomicCheckpointer(tmp_path, {"model": layers})
    with pytest.raises(ArchitectureMismatchError) as error:
        other.recover_if_possible()
    message = str(error.value)
    assert "do not fit this model" in message and "Missing key(s)" in message
    assert len(message.splitlines()) <= 6 and len(message) < 1000
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_the_message_names_the_place_it_ends_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer, _ = make(tmp_path)
    with caplog.at_level(logging.INFO):
        saved = save(checkpointer)
    assert f"Saved a checkpoint in {saved.path}" in caplog.text
    assert ".saving" not in caplog.text
