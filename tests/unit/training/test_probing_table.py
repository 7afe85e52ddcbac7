"""Tables of MP3S, from the folders of finished runs."""

from __future__ import annotations

import json
from pathlib import Path

from summarymixing_modules.training.probing_table import (
    Cell,
    finished_cell,
    render_table,
    write_table,
)


def write_result(folder: Path, digest: str = "abc", **more: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "task": "iemocap",
        "probe": "linear",
        "encoder": "/models/mine",
        "score": 61.25,
        "layer_weights": [0.5, 0.3, 0.2],
        "architecture": {"encoder_digest": digest},
        **more,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_only_results_of_the_same_encoder_are_kept(tmp_path: Path) -> None:
    write_result(tmp_path)
    cell = finished_cell("iemocap_linear", tmp_path, "abc")
    assert cell is not None and cell.score == 61.25 and cell.layer_weights == (0.5, 0.3, 0.2)
    assert finished_cell("iemocap_linear", tmp_path, "def") is None
    assert finished_cell("iemocap_linear", tmp_path / "none", "abc") is None


def test_the_table_has_published_figures_and_failures(tmp_path: Path) -> None:
    cells = {
        "voxceleb_ecapa": Cell("voxceleb_ecapa", 4.5, None, (0.5, 0.5)),
        "cv_welsh_linear": Cell("cv_welsh_linear", error="error: no cy/train.tsv"),
    }
    table = render_table(cells)
    assert "| VoxCeleb1 verification | X-vector | – | 5.43 % EER | ECAPA-TDNN | 4.50 % EER" in table
    assert "Linear | failed | 77.49 % WER |" in table and "SLURP" not in table
    write_table(tmp_path, cells, "models/mine", "abc")
    assert "cv_welsh_linear failed: error: no cy" in (tmp_path / "table.md").read_text()
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["encoder_digest"] == "abc" and content["cells"][0]["score"] == 4.5
