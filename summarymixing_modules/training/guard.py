"""Steps that must not reach the weights: found on any rank, skipped on all, recorded by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.distributed import (
    ddp_all_reduce,
    if_main_process,
    is_distributed_initialized,
)
from speechbrain.utils.logger import get_logger

from summarymixing_modules.training.run.resume import current_rank

logger = get_logger(__name__)

SHOWN_UTTERANCES = 10  # in a message; the file has all of them


class NonFiniteTrainingError(RuntimeError):
    """Too many optimizer steps in a row had to be skipped."""


def is_empty(batch: Any) -> bool:
    """Whether nothing of a batch could be read (``batch.is_empty``, or a length of 0)."""
    if hasattr(batch, "is_empty"):
        return bool(batch.is_empty)
    return hasattr(batch, "__len__") and len(batch) == 0


def utterance_ids(batch: Any) -> list[str]:
    """The names of a batch's utterances (``batch.id``); none if the data set gives none."""
    return [str(name) for name in getattr(batch, "id", None) or ()]


class StepGuard:
    """Decides, for all ranks alike, that an accumulation window is lost, and keeps the record.

    A window is the batches of one optimizer step. As soon as one rank reports a fault, the window
    is spoiled on every rank: nobody computes the rest of it, and nobody steps.

    Args:
        patience: spoiled windows in a row that training survives; one more stops it.
        record_file: JSON lines, one per faulty rank: utterances, step, epoch, reason, rank.
            None keeps no file.
        device: where the flags of the ranks are compared (the backend's device).
    """

    def __init__(self, patience: int, record_file: Path | None, device: str) -> None:
        self.patience = patience
        self.record_file = record_file
        self.device = device
        self._in_a_row = 0
        self.open_window(0)

    def open_window(self, size: int) -> None:
        """A new accumulation window starts, of so many batches."""
        self.size, self.batches = size, 0
        self.spoiled = False
        self._window: list[str] = []

    def watch(self, batch: Any) -> None:
        """Count a batch as part of the window, and remember its utterances."""
        self.batches += 1
        self._window += utterance_ids(batch)

    @property
    def window_is_full(self) -> bool:
        """Whether all of the window's batches have come: the time to step, and to save."""
        return self.batches >= self.size

    def window_stepped(self) -> None:
        """The optimizer made a step: faults are no longer in a row."""
        self._in_a_row = 0

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank must ask."""
        if not is_distributed_initialized():
            return flag
        flags = torch.tensor(int(flag), device=self.device)
        return bool(ddp_all_reduce(flags, torch.distributed.ReduceOp.MAX).item())

    def spoils(self, fault: bool, reason: str, step: int, epoch: int, batch: Any = None) -> bool:
        """Spoil the window if this or another rank has a fault; every rank must ask.

        Args:
            fault: whether this rank has it.
            reason: what is wrong, such as "loss is nan".
            step: number of the optimizer step that is lost, from 1.
            epoch: number of the epoch, from 1.
            batch: the batch at fault; None suspects the whole window.

        Returns:
            Whether the window is spoiled.

        Raises:
            NonFiniteTrainingError: more than `patience` windows in a row are spoiled.
        """
        if not self.any_rank(fault):
            return False
        self.spoiled = True
        self._in_a_row += 1
        names = self._window if batch is None else utterance_ids(batch)
        self._report(fault, reason, names, step, epoch)
        return True

    def report_evaluation(self, batch: Any, reason: str, stage: str, epoch: int) -> None:
        """Record a batch that an evaluation could not use (every rank evaluates all batches)."""
        names = utterance_ids(batch)
        logger.warning(f"{stage}: {reason}, left out of the average. Utterances: {_shown(names)}.")
        self._write([_record(names, None, epoch, f"{stage}: {reason}", current_rank())])

    def _report(self, fault: bool, reason: str, names: list[str], step: int, epoch: int) -> None:
        record = _record(names, step, epoch, reason, current_rank()) if fault else None
        records: list[dict[str, Any] | None] = [record]
        if is_distributed_initialized():
            records = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(records, record)
        faults = [entry for entry in records if entry is not None]
        told = "; ".join(
            f"rank {entry['rank']}: {entry['reason']} ({_shown(entry['utterances'])})"
            for entry in faults
        )
        logger.warning(f"Skipping optimizer step {step} of epoch {epoch} on all ranks. {told}")
        self._write(faults)
        if self._in_a_row > self.patience:
            where = f" All of them are in {self.record_file}." if self.record_file else ""
            raise NonFiniteTrainingError(
                f"{self._in_a_row} optimizer steps in a row had to be skipped, which is more than "
                f"--nonfinite_patience={self.patience}. The last: {told}.{where} The weights are "
                "those before the first of them. Look at these utterances, or lower the learning "
                "rate or --max_grad_norm."
            )

    def _write(self, records: list[dict[str, Any]]) -> None:
        if self.record_file is not None and if_main_process():
            self.record_file.parent.mkdir(parents=True, exist_ok=True)
            with self.record_file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)


def _record(
    names: list[str], step: int | None, epoch: int, reason: str, rank: int
) -> dict[str, Any]:
    return {"utterances": names, "step": step, "epoch": epoch, "reason": reason, "rank": rank}


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_UTTERANCES} more" if len(names) > SHOWN_UTTERANCES else ""
    return (", ".join(names[:SHOWN_UTTERANCES]) or "no names known") + more
