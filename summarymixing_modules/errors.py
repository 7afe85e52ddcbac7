"""Errors that are about what a person gave or what the machine lacks, not about the code."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

#: In the environment, or ``--debug`` on the command line of a recipe: errors have their traceback.
TRACEBACK = "SUMMARYMIXING_TRACEBACK"


class InputError(ValueError):
    """Something given (flag, file, audio, text) cannot be used; the message tells the remedy.

    Recipes and the command line print it without a traceback.
    """


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence with the nearest known names, or nothing."""
    by_lower = {entry.lower(): entry for entry in sorted(set(known))}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(prefix + by_lower[n] for n in near)}?" if near else ""


def near_name(name: str, known: Iterable[str]) -> str:
    """Words inside a sentence that suggest the nearest known name; nothing where there is none."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


#: Words of torch's RuntimeErrors → what to do. Its other errors of these classes are faults.
_OF_TORCH = {
    "PytorchStreamWriter failed": "the disk is full, or nothing may be written there: make room",
    "DefaultCPUAllocator": "there is not so much memory: make the model or --max_batch_length "
    "smaller",
    "DataLoader worker": "a process that reads audio was killed, for want of memory as a rule: "
    "give fewer --num_workers",
}


def explain(error: BaseException) -> str | None:
    """One sentence on an error that a person can mend, whoever raised it; None for all others.

    >>> explain(FileNotFoundError(2, "No such file or directory", "talk.wav"))
    'No such file or directory: talk.wav'
    """
    text = str(error)
    if isinstance(error, InputError):
        return _without_worker(text)
    if isinstance(error, OSError):
        return _of_files(error) if error.strerror else text or None
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is slow to import
        return (
            f"{text.partition('. ')[0]}. Lower --max_batch_length and raise "
            "--grad_accumulation_factor as much, or choose a smaller model."
        )
    if isinstance(error, RuntimeError):
        remedy = next((told for words, told in _OF_TORCH.items() if words in text), None)
        return None if remedy is None else f"{remedy} ({text.splitlines()[0]})"
    return None


def _of_files(error: OSError) -> str:
    place = "" if error.filename is None else f": {os.fspath(error.filename)}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{place}. Make room, and give the same command again."
    if error.errno == errno.EEXIST:
        return f"something of this name is in the way{place}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many files are open{place}: raise the limit (ulimit -n 4096)."
    return f"{error.strerror}{place}"


def _without_worker(text: str) -> str:
    """The message alone, where a loading process has put its traceback before it."""
    if not text.startswith("Caught ") or "Original Traceback" not in text:
        return text
    return text.rstrip().splitlines()[-1].partition(": ")[2]
