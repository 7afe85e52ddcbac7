"""explain: one sentence on what a person can mend, whoever raised it, and nothing on faults."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from summarymixing_modules.errors import InputError, explain


class Refusing(Dataset[int]):
    """Data that cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        raise InputError(f"talk{index}.wav: cut off: copy it again.")


def of_system(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("--x=1 must be 2."), "--x=1 must be 2."),
        (of_system(errno.ENOENT, "talk.wav"), "No such file or directory: talk.wav"),
        (of_system(errno.EACCES, "/run/log"), "Permission denied: /run/log"),
        (of_system(errno.EEXIST, "/run"), "something of this name is in the way: /run"),
        (of_system(errno.ENOSPC), "the disk is full. Make room, and give the same command again."),
        (of_system(errno.EMFILE, "a.wav"), "too many files are open: a.wav: raise the limit"),
        (FileNotFoundError("There is no kenlm model."), "There is no kenlm model."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "CUDA out of memory. Lower --max"),
        (
            RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0\nframe"),
            "the disk is full, or nothing may be written there: make room ([enforce fail]",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a process that"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "there is not so much memory"),
    ],
)
def test_what_can_be_mended(error: Exception, told: str) -> None:
    found = explain(error)
    assert found is not None and found.startswith(told) and "\n" not in found


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), KeyError("wav"), OSError(), ValueError("x")]
)
def test_faults_of_the_code(error: Exception) -> None:
    assert explain(error) is None


def test_what_a_loading_process_refuses() -> None:
    with pytest.raises(InputError, match="Original Traceback") as error:
        list(DataLoader(Refusing(), num_workers=1))
    assert explain(error.value) == "talk0.wav: cut off: copy it again."
