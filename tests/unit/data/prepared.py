"""One way to prepare any corpus in a test."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from summarymixing_modules.data.corpora import corpus_spec
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.data.preparation import Preparation

_SHARED = {field.name for field in fields(Preparation)}


def prepared(corpus: str, data_folder: Path | str, save: Path, **changes: Any) -> Manifests:
    """Prepares a corpus; ``changes`` are settings that all share, and options of its own."""
    settings = {"workers": 2, "progress": False, **changes}
    shared = {name: value for name, value in settings.items() if name in _SHARED}
    own = {name: value for name, value in changes.items() if name not in _SHARED}
    return corpus_spec(corpus).prepare(Preparation(Path(data_folder), save, **shared), **own)
