"""Whether a result is of whole test sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def missing_utterances(result: Mapping[str, Any]) -> str:
    """What was not scored of the test sets of a run; empty if nothing is missing.

    Args:
        result: content of ``result.json``.
    """
    missing = {name: n for name, n in (result.get("test_missing") or {}).items() if n}
    scored = result.get("test_utterances") or {}
    parts = [f"{n} of {n + scored.get(name, 0)} of {name}" for name, n in missing.items()]
    return f"test utterances that are not scored: {', '.join(parts)}" if parts else ""
