"""The process of a training and how it ends: with one line that a person can act on."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import FrameType

import torch
from speechbrain.utils.distributed import if_main_process, is_distributed_initialized

from summarymixing_modules.errors import TRACEBACK, explain
from summarymixing_modules.training.run.run_lock import release_all

#: What a rank that has lost another one says.
_LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
_STOPS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """The process was told to end by SIGTERM, as schedulers of clusters do."""


def run(main: Callable[[Sequence[str]], object]) -> None:
    """The last line of a train.py: an error that a person can mend ends it with one sentence.

    So do Ctrl-C (exit status 130) and SIGTERM (143). Faults of the code keep their traceback, and
    so does everything with ``--debug``.

    Args:
        main: the recipe; gets the command line without the script's name.
    """
    handlers = {number: signal.getsignal(number) for number in _STOPS}
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt as stop:
        _stop(stop)
    except Exception as error:
        told = explain(error) or _loss_of_a_rank(error)
        if told is None:
            raise
        _tell(error, told)
        sys.exit(1)
    finally:
        release_all()
        leave_process_group()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave_process_group() -> None:
    """Leave the DDP group, if there is one."""
    if is_distributed_initialized():
        torch.distributed.destroy_process_group()


def _loss_of_a_rank(error: Exception) -> str | None:
    """A sentence on an error that only says that another rank has ended."""
    lost = isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)
    return "another process of this training has ended; it may have been killed." if lost else None


def _tell(error: Exception, told: str) -> None:
    """Print an error, once for all ranks that meet it, and put it into the log of the run."""
    if not _is_first_to_tell():
        return
    if "--debug" in sys.argv or TRACEBACK in os.environ:
        traceback.print_exception(error)
    print(f"error: {told}", file=sys.stderr)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            name, where = __name__, (type(error), error, error.__traceback__)
            handler.handle(logging.LogRecord(name, logging.ERROR, "", 0, told, None, where))


def _is_first_to_tell() -> bool:
    """Whether no other process of this torchrun has told an error yet.

    The agent that started them keeps a store, before they form a group and after it has broken.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = torch.distributed.TCPStore(host, port, timeout=timedelta(seconds=5))
        return store.add(f"summarymixing_modules/told/{start}", 1) == 1
    except torch.distributed.DistError:
        return True


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _stop(stop: KeyboardInterrupt) -> None:
    """Say in one line what was stopped, and end with the status that shells expect."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)  # torchrun passes on what the terminal has sent
    by, status = ("SIGTERM", 143) if isinstance(stop, Terminated) else ("Ctrl-C", 130)
    if if_main_process():
        told = getattr(stop, "__notes__", ["The same command starts it again."])
        print(f"\nStopped by {by}. {' '.join(told)}", file=sys.stderr)
    if is_distributed_initialized():
        # Other ranks may be waiting for this one, or be gone: nothing may wait for them now.
        release_all()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
