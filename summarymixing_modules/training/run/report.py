"""What a run leaves behind: ``result.json`` and ``curves.png`` in its output folder."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import speechbrain
import torch
from speechbrain.utils.distributed import (
    ddp_all_reduce,
    ddp_barrier,
    if_main_process,
)

import summarymixing_modules
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.training.run.curves import plot_curves
from summarymixing_modules.training.run.resume import world_size

if TYPE_CHECKING:
    from summarymixing_modules.training.brain import SafeBrain

RESULT = "result.json"
CURVES = "curves.png"
RESOLVED_YAML = "hyperparams.yaml"  # SpeechBrain writes it into the output folder


def write_report(
    brain: SafeBrain,
    folder: Path,
    metrics: Mapping[str, float],
    real_time_factor: float | None,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write ``result.json`` and ``curves.png``, print their paths; call it on every rank.

    Args:
        brain: the trained Brain.
        folder: where to write; made if missing.
        metrics: the results, error rates in percent.
        real_time_factor: seconds of computing per second of audio; None if not measured.
        extra: more entries; must not bear the name of an entry that is there.

    Returns:
        The content of ``result.json``; numbers that are not finite are None there.

    Raises:
        ValueError: `extra` repeats an entry.
    """
    result = describe_run(brain, folder)
    result |= {"metrics": dict(metrics), "real_time_factor": real_time_factor}
    repeated = sorted(set(extra or {}) & set(result))
    if repeated:
        raise ValueError(f"result.json has {', '.join(repeated)} already: rename it in extra.")
    clean: dict[str, Any] = _without_nan({**result, **(extra or {})})
    if if_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RESULT, json.dumps(clean, indent=2, allow_nan=False) + "\n")
        plot_curves(brain.history, folder / CURVES, title=_title(brain, folder))
        print(f"Result: {folder / RESULT}\nCurves: {folder / CURVES}")
    ddp_barrier()
    return clean


def describe_run(brain: SafeBrain, folder: Path) -> dict[str, Any]:
    """Everything about a run but its results: model, cost, software, machine.

    Seconds are wall clock over all interruptions; audio, frames and padding are summed over the
    ranks (of the part before an interruption, rank 0's is taken for all); memory is the largest of
    the ranks. ``per_step`` has the means of an optimizer step, see ``history.PER_STEP``.
    """
    history = brain.history
    parameters = list(brain.modules.parameters())
    audio, padded = (
        _over_ranks(history.totals[name], brain.device, torch.distributed.ReduceOp.SUM)
        for name in ("audio_seconds", "padded_seconds")
    )
    peak = history.totals["peak_memory_mb"]
    return {
        "architecture": brain.architecture(),
        "parameters": {
            "total": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        },
        "epochs": len(history.epochs),
        "optimizer_steps": history.last_step,
        "skipped_steps": int(history.totals["skipped_steps"]),
        "fp16_overflow_steps": int(history.totals["overflow_steps"]),
        "averaged_checkpoints": brain.averaged_checkpoints,
        "resumed_with_changes": history.changes,
        "train_seconds": history.train_seconds,
        "total_seconds": history.totals["total_seconds"],
        "seconds": {p: history.totals[f"{p}_seconds"] for p in ("data", "compute", "optimizer")},
        "per_step": history.step_means(),
        "audio_hours_seen": audio / 3600,
        "padding_share": 1 - audio / padded if padded else None,
        "peak_memory_mb": _over_ranks(peak, brain.device, torch.distributed.ReduceOp.MAX),
        "peak_memory_of": "CUDA tensors" if brain.device.startswith("cuda") else "process (RSS)",
        **provenance(),
        "config_sha256": config_hash(folder / RESOLVED_YAML),
        "device": brain.device,
        "device_name": device_name(brain.device),
        "world_size": world_size(),
        "precision": brain.precision,
    }


def provenance() -> dict[str, Any]:
    """What made a figure, and when: command, versions, commit, date."""
    return {
        "command": shlex.join(sys.argv),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "speechbrain": speechbrain.__version__,
            "summarymixing_modules": summarymixing_modules.__version__,
        },
        "git_commit": git_commit(Path(summarymixing_modules.__file__)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def describe_environment() -> str:
    """Python, CUDA and every package that this process can import, a line each."""
    found = {str(d.name).lower(): d.version for d in reversed(list(distributions()))}
    packages = [f"{name}=={version}" for name, version in sorted(found.items())]
    cuda = torch.version.cuda if torch.cuda.is_available() else "not available"
    return "\n".join([f"Python {sys.version}", f"CUDA {cuda}", *packages, ""])


def git_commit(file: Path) -> str | None:
    """The commit that a file's repository is at; None if git does not track the file."""
    tracked = ["git", "ls-files", "--error-unmatch", file.name]
    head = ["git", "rev-parse", "HEAD"]
    try:
        subprocess.run(tracked, cwd=file.parent, check=True, capture_output=True)
        done = subprocess.run(head, cwd=file.parent, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def config_hash(resolved_yaml: Path) -> str | None:
    """SHA-256 of a resolved YAML file without its comments (one holds the date); None if absent."""
    if not resolved_yaml.exists():
        return None
    lines = resolved_yaml.read_text(encoding="utf-8").splitlines()
    content = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return hashlib.sha256(content.encode()).hexdigest()


def _over_ranks(value: float, device: str, operation: Any) -> float:
    reduced = ddp_all_reduce(torch.tensor(value, device=device), operation)
    return float(reduced)


def device_name(device: str) -> str:
    """The GPU's or the processor's name, as far as the system tells it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _title(brain: SafeBrain, folder: Path) -> str:
    attention = brain.architecture().get("attention_type")
    return f"{folder.name} ({attention})" if attention else folder.name


def _without_nan(value: Any) -> Any:
    """Make a value fit for strict JSON: numbers of any library as Python's, NaN and inf as None."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Path):
        return str(value)
    number = float(value)
    return number if math.isfinite(number) else None
