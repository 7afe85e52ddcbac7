"""The table of MP3S (arXiv 2308.14456): results of runs beside published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.training.report import RESULT

TABLE = "table"


@dataclass(frozen=True)
class Column:
    """A task with a probe, which is a YAML file of the recipe.

    Attributes:
        task: as a heading.
        probe: 1 or 2 in MP3S.
        head: what the probe is.
        unit: "WER", "EER" (lower is better) or "ACC" (higher is better), in percent.
        data2vec: published for data2vec base, 95M parameters.
    """

    task: str
    probe: int
    head: str
    unit: str
    data2vec: float


COLUMNS = {
    "librispeech_asr_bilstm": Column("LibriSpeech-100 ASR", 1, "BiLSTM", "WER", 5.30),
    "librispeech_asr_contextnet": Column("LibriSpeech-100 ASR", 2, "ContextNet", "WER", 5.85),
    "cv_welsh_bilstm": Column("Common Voice Welsh", 1, "BiLSTM", "WER", 54.00),
    "cv_welsh_linear": Column("Common Voice Welsh", 2, "Linear", "WER", 77.49),
    "cv_basque_bilstm": Column("Common Voice Basque", 1, "BiLSTM", "WER", 46.37),
    "cv_basque_linear": Column("Common Voice Basque", 2, "Linear", "WER", 75.26),
    "voxceleb_xvector": Column("VoxCeleb1 verification", 1, "X-vector", "EER", 5.43),
    "voxceleb_ecapa": Column("VoxCeleb1 verification", 2, "ECAPA-TDNN", "EER", 3.75),
    "iemocap_linear": Column("IEMOCAP emotions", 1, "Linear", "ACC", 63.0),
    "iemocap_ecapa": Column("IEMOCAP emotions", 2, "ECAPA-TDNN", "ACC", 72.0),
    "slurp_scenario_linear": Column("SLURP scenarios", 1, "Linear", "ACC", 56.9),
    "slurp_scenario_bilstm": Column("SLURP scenarios", 2, "BiLSTM", "ACC", 73.4),
}


@dataclass(frozen=True)
class Cell:
    """What became of a run.

    Attributes:
        name: of its column.
        score: in percent; None if it failed.
        error: why it failed.
        layer_weights: of the encoder's hidden states.
    """

    name: str
    score: float | None = None
    error: str | None = None
    layer_weights: tuple[float, ...] = ()

    def text(self) -> str:
        """For people."""
        unit = COLUMNS[self.name].unit
        return "failed" if self.score is None else f"{self.score:.2f} % {unit}"


def finished_cell(name: str, run_folder: Path, digest: str) -> Cell | None:
    """The result of a finished run; None if there is none for this encoder.

    Args:
        name: of the column.
        run_folder: ``output_folder`` of the run.
        digest: of the encoder, see ``FrozenEncoder.digest``.
    """
    try:
        result: dict[str, Any] = json.loads((run_folder / RESULT).read_text(encoding="utf-8"))
        if result["architecture"]["encoder_digest"] != digest:
            return None
        return Cell(name, float(result["score"]), None, tuple(result["layer_weights"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def render_table(cells: Mapping[str, Cell]) -> str:
    """The table in Markdown: a row for each task, its two probes, data2vec base beside ours."""
    lines = [
        "| task | probe 1 | ours | data2vec base | probe 2 | ours | data2vec base |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(column.task for column in COLUMNS.values()):
        parts = [task]
        shown = False
        for name, column in COLUMNS.items():
            if column.task == task:
                shown |= name in cells
                ours = cells[name].text() if name in cells else "–"
                parts += [column.head, ours, f"{column.data2vec:.2f} % {column.unit}"]
        if shown:
            lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def write_table(folder: Path, cells: Mapping[str, Cell], encoder: str, digest: str) -> None:
    """Write ``table.md`` and ``table.json``."""
    note = (
        f"\nEncoder: {encoder} ({digest}). data2vec base: published in arXiv 2308.14456. WER and "
        "EER: lower is better; ACC: higher.\n"
    )
    failures = [f"- {cell.name} failed: {cell.error}\n" for cell in cells.values() if cell.error]
    text = "".join([render_table(cells), "\n", note, "\n" if failures else "", *failures])
    write_atomically(folder / f"{TABLE}.md", text)
    rows = [{**asdict(cell), **asdict(COLUMNS[name])} for name, cell in cells.items()]
    content = {"encoder": encoder, "encoder_digest": digest, "cells": rows}
    write_atomically(folder / f"{TABLE}.json", json.dumps(content, indent=2) + "\n")
