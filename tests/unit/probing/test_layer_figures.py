"""Pictures of layer weights, from the folders of finished runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.layer_figures import find_probes, write_layer_weights


def write_result(folder: Path, **more: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "task": "iemocap",
        "probe": "linear",
        "encoder": "/models/mine",
        "score": 61.25,
        "layer_weights": [0.5, 0.3, 0.2],
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
    write_result(tmp_path / "two", encoder="/models/other")
    write_result(tmp_path / "three", encoder="/models/other")
    with pytest.raises(InputError, match="two runs have an encoder called other"):
        write_layer_weights(find_probes([tmp_path]), tmp_path)
