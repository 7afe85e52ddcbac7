"""Tables of MP3S and pictures of layer weights, from the folders of finished runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.layer_weights import find_probes, write_layer_weights
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


def test_one_picture_and_table_for_each_task(tmp_path: Path) -> None:
    write_result(tmp_path / "mha" / "iemocap")
    write_result(tmp_path / "sm" / "iemocap", score=70.0, layer_weights=[0.1, 0.2, 0.3, 0.4])
    write_result(tmp_path / "sm" / "slurp", task="slurp_scenario")
    (tmp_path / "sm" / "other").mkdir()
    (tmp_path / "sm" / "other" / "result.json").write_text("{}")  # of another recipe
    runs = find_probes([tmp_path / "mha", tmp_path / "sm"])
    pictures = write_layer_weights(runs, tmp_path / "out")
    assert [path.name for path in pictures] == [
        "layers_iemocap_linear.png",
        "layers_slurp_scenario_linear.png",
    ]
    assert all(path.stat().st_size > 10_000 for path in pictures)
    rows = list(csv.reader(pictures[0].with_suffix(".csv").open()))
    assert rows[0] == ["encoder", "score", "state_0", "state_1", "state_2", "state_3"]
    assert rows[1] == ["mha", "61.25", "0.5", "0.3", "0.2"]
    assert rows[2] == ["sm", "70.0", "0.1", "0.2", "0.3", "0.4"]


def test_of_ten_folds_the_mean_counts(tmp_path: Path) -> None:
    write_result(tmp_path / "iemocap", scores=[60.0, 62.5])
    write_result(tmp_path / "iemocap" / "fold1")
    write_result(tmp_path / "iemocap" / "fold2")
    assert len(find_probes([tmp_path])) == 1


def test_missing_and_ambiguous_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_probes([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no result of a probe"):
        find_probes([tmp_path])
    write_result(tmp_path / "one")
    write_result(tmp_path / "two")
    with pytest.raises(InputError, match="two runs have an encoder called mine"):
        write_layer_weights(find_probes([tmp_path]), tmp_path)


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
