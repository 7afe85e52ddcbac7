"""Figures out of a ``result.json``: by path, or derived from several entries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from summarymixing_modules.tables.schema import TableError
from summarymixing_modules.training.scores.score import Interval
from summarymixing_modules.training.scores.test_sets import interval_of

_STEP = re.compile(r"([^.\[\]]+)(?:\[([^\]]*)\])?(?:\.|$)")


def look_up(result: Mapping[str, Any], metric: str) -> float | None:
    """A figure of a result.

    Args:
        result: content of ``result.json``.
        metric: one of `DERIVED`, or a path: ``metrics.test-clean_wer``; in a list of entries
            ``streaming_matrix.test-clean[chunk_size=16,left_chunks=4].wer`` takes the entry with
            these values (``null``: none).

    Returns:
        The figure; None where it does not exist, or was not finite.

    Raises:
        TableError: the path cannot be read.
    """
    if metric in DERIVED:
        return DERIVED[metric](result)
    node = _node(result, metric)
    if isinstance(node, bool) or not isinstance(node, int | float):
        return None
    return float(node)


def look_up_interval(result: Mapping[str, Any], metric: str) -> Interval | None:
    """The 95 % interval of a figure; None where it has none.

    Args:
        result: content of ``result.json``.
        metric: its path, as in `look_up`.
    """
    if metric.startswith("streaming_matrix."):
        return interval_of(_node(result, metric.removesuffix(".wer")), "interval")
    return interval_of(result.get("intervals"), metric.removeprefix("metrics."))


def _node(result: Mapping[str, Any], metric: str) -> Any:
    node: Any = result
    for name, selector in _steps(metric):
        node = node.get(name) if isinstance(node, Mapping) else None
        if selector:
            node = _select(node, selector)
    return node


def _steps(metric: str) -> list[tuple[str, str]]:
    steps = _STEP.findall(metric)
    read = sum(len(match[0]) for match in _STEP.finditer(metric))
    if not steps or read != len(metric):
        raise TableError(f"'{metric}' is no path into result.json, such as metrics.test_wer.")
    return steps


def _select(entries: Any, selector: str) -> Any:
    """The entry of a list that has these values, written ``key=value,key=value``."""
    wanted = [part.strip().partition("=") for part in selector.split(",")]
    for entry in entries if isinstance(entries, list) else []:
        if all(_same(entry.get(key), value) for key, _, value in wanted):
            return entry
    return None


def _same(value: Any, text: str) -> bool:
    if text == "null":
        return value is None
    if isinstance(value, int | float) and re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(value) == float(text)
    return str(value) == text


def _gpu_hours(result: Mapping[str, Any]) -> float | None:
    """Hours of training times processes; None if no GPU did it."""
    if not str(result.get("device", "")).startswith("cuda"):
        return None
    seconds, processes = look_up(result, "train_seconds"), look_up(result, "world_size")
    return None if seconds is None or processes is None else seconds * processes / 3600


def _gpu_memory(result: Mapping[str, Any]) -> float | None:
    """GiB that tensors took on a GPU at one time; None if no GPU was used."""
    if result.get("peak_memory_of") != "CUDA tensors":
        return None
    peak = look_up(result, "peak_memory_mb")
    return None if peak is None else peak / 1024


def _millions(result: Mapping[str, Any]) -> float | None:
    total = look_up(result, "parameters.total")
    return None if total is None else total / 1e6


#: Name → figure.
DERIVED: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "gpu_hours": _gpu_hours,
    "gpu_memory_gb": _gpu_memory,
    "parameters_millions": _millions,
}
