"""Corpora whose utterances carry labels: annotations beside the manifests.

The manifest ``NAME.csv`` has its annotations in ``NAME.jsonl``, one JSON object a line, in the same
order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.manifest import ManifestError, merge_manifests


def annotations_of(manifest: Path) -> Path:
    """The file with the annotations of a manifest."""
    return manifest.with_suffix(".jsonl")


def read_annotations(manifest: Path) -> dict[str, dict[str, Any]]:
    """Utterance → annotation, in the order of the manifest.

    Raises:
        ManifestError: no such file, or a line in it is not what preparation wrote.
    """
    path = annotations_of(manifest)
    if not path.is_file():
        raise ManifestError(f"{path}: no such file: prepare the corpus again (--skip_prep off)")
    annotations = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            annotations[record.pop("id")] = record
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise ManifestError(f"{path}:{number}: not an annotation: prepare again") from err
    return annotations


def write_annotations(manifest: Path, annotations: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the annotations of a manifest in one step."""
    lines = [json.dumps({"id": name, **record}) for name, record in annotations.items()]
    write_atomically(annotations_of(manifest), "".join(f"{line}\n" for line in lines))


def merge_labelled(parts: Sequence[Path], merged: Path) -> None:
    """Write several manifests with their annotations, in order, into one.

    Raises:
        ManifestError: an ID occurs in two of them.
    """
    merge_manifests(parts, merged)
    write_annotations(merged, {k: v for part in parts for k, v in read_annotations(part).items()})
