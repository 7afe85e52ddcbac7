"""From result.json to verdicts and Markdown; never a figure that no file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from summarymixing_modules.cli import main
from summarymixing_modules.tables.collect import (
    DIFFERS,
    INCOMPLETE,
    NO_FIGURE,
    NOT_JUDGED,
    NOT_RUN,
    OURS_ONLY,
    PUBLISHED_ONLY,
    REPRODUCED,
    collect,
    judge,
)
from summarymixing_modules.tables.figures import look_up, look_up_interval
from summarymixing_modules.tables.read import load_table
from summarymixing_modules.tables.schema import Column, TableError

RESULT: dict[str, Any] = {
    "metrics": {"dev-clean_wer": 2.5, "nothing": None},
    "parameters": {"total": 94_030_000},
    "train_seconds": 7200,
    "world_size": 4,
    "device": "cuda:0",
    "peak_memory_of": "CUDA tensors",
    "peak_memory_mb": 2048,
    "rows": [
        {"form": "a", "seconds": 10.0, "left": None, "s": 0.5},
        {"form": "a", "seconds": 20.0, "left": 4, "s": 0.7},
    ],
}


@pytest.mark.parametrize(
    ("metric", "figure"),
    [
        ("metrics.dev-clean_wer", 2.5),
        ("metrics.nothing", None),
        ("metrics.test_wer", None),
        ("device", None),
        ("rows[form=a,seconds=20].s", 0.7),
        ("rows[form=a,left=null].s", 0.5),
        ("rows[form=b,seconds=10].s", None),
        ("metrics[form=a].s", None),
        ("gpu_hours", 8.0),
        ("gpu_memory_gb", 2.0),
        ("parameters_millions", 94.03),
    ],
)
def test_figures_by_path(metric: str, figure: float | None) -> None:
    assert look_up(RESULT, metric) == figure


def test_intervals_by_path() -> None:
    result = {
        "intervals": {"test-clean_wer": [1.0, 2.0], "test_wer": [None, None]},
        "streaming_matrix": {
            "test-clean": [{"left_chunks": 4, "wer": 3.0, "interval": [2.5, 3.5]}]
        },
    }
    assert look_up_interval(result, "metrics.test-clean_wer") == (1.0, 2.0)
    assert look_up_interval(result, "streaming_matrix.test-clean[left_chunks=4].wer") == (2.5, 3.5)
    assert look_up_interval(result, "streaming_matrix.test-clean[left_chunks=2].wer") is None
    assert look_up_interval(result, "test_wer") is None
    assert look_up_interval({}, "metrics.test-clean_wer") is None


def test_figures_of_a_cpu_are_no_gpu_hours() -> None:
    result = RESULT | {"device": "cpu", "peak_memory_of": "process (RSS)"}
    assert look_up(result, "gpu_hours") is None
    assert look_up(result, "gpu_memory_gb") is None
    with pytest.raises(TableError, match="no path"):
        look_up(RESULT, "metrics..x[")


@pytest.mark.parametrize(
    ("published", "ours", "tolerance", "relative", "verdict"),
    [
        (2.2, 2.4, 0.2, False, REPRODUCED),
        (2.2, 2.41, 0.2, False, DIFFERS),
        (2.2, 1.9, 0.2, False, DIFFERS),
        (50.0, 55.0, 0.1, True, REPRODUCED),
        (50.0, 55.1, 0.1, True, DIFFERS),
        (632, 632, 0, False, REPRODUCED),
        (632, 633, 0, False, DIFFERS),
        (2.2, None, 0.2, False, NOT_RUN),
        (None, 2.2, 0.2, False, OURS_ONLY),
        (98, 99, None, False, NOT_JUDGED),
    ],
)
def test_verdicts(
    published: float | None,
    ours: float | None,
    tolerance: float | None,
    relative: bool,
    verdict: str,
) -> None:
    assert judge(Column("c", "m", "", tolerance, relative), published, ours) == verdict


@pytest.fixture
def results(fake_table: Path) -> Path:
    """What a whole run of the fake table leaves."""
    folder = fake_table.parent
    data = [f"speech={folder / 'speech'}"]
    command = ["tables", "run", str(fake_table), "--results", str(folder / "results"), "--data"]
    assert main([*command, *data]) == 1
    return folder / "results"


def test_cells_of_a_table(fake_table: Path, results: Path) -> None:
    cells = {(c.row, c.column): c for c in collect(load_table(str(fake_table)), results)}
    found = {key: cell.verdict for key, cell in cells.items()}
    assert found == {
        ("good", "test-clean"): REPRODUCED,
        ("good", "size"): REPRODUCED,
        ("good", "hours"): NO_FIGURE,
        ("bad", "test-clean"): NOT_RUN,
        ("bad", "size"): NOT_RUN,
        ("bad", "hours"): NOT_RUN,
        ("far/6", "test-clean"): DIFFERS,
        ("far/6", "size"): DIFFERS,
        ("far/6", "hours"): NO_FIGURE,
        ("far/7", "test-clean"): DIFFERS,
        ("far/7", "size"): DIFFERS,
        ("far/7", "hours"): NO_FIGURE,
        ("more", "test-clean"): NOT_RUN,
        ("more", "size"): NOT_RUN,
        ("more", "hours"): NOT_RUN,
        ("theirs", "test-clean"): PUBLISHED_ONLY,
    }
    assert cells["far/7", "test-clean"].difference == 2.0
    assert cells["good", "hours"].note == "result.json has no gpu_hours"
    assert "failed with exit status 3" in cells["bad", "test-clean"].note


def test_the_report_in_markdown(
    fake_table: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["tables", "report", str(fake_table), "--results", str(results)]) == 0
    file = results / "fakes" / "report.md"
    assert capsys.readouterr().out.strip() == str(file)
    text = file.read_text()
    assert "Source: a paper, table 1." in text
    assert "16 figures: 6 not run, 4 differs, 3 no figure, 2 reproduced, 1 published only." in text
    assert "test-clean (WER %): 0.2; size (M): 10 %; hours: not judged" in text
    assert "| good | 5.1 ± 0.6 (5) | 2.5 (2.5) | – (3) |" in text
    assert "| far/7 | test-clean (WER %) | 5 | 7 ± 0.6 | +2.00 | differs |" in text
    assert "| far/6 | size (M) | 5 | 2.5 | -50.0 % | differs |" in text
    assert "| theirs | test-clean (WER %) | 4 | – |  | published only |" in text
    assert "- theirs: another model" in text and "± is half of the 95 % interval" in text
    assert "    summarymixing tables run fakes --rows bad --data speech=FOLDER\n" in text
    assert "--rows more --data more=FOLDER" in text and "--rows good" not in text
    plot = results / "fakes/figures/streaming_matrix_test-clean_far_6.png"
    assert plot.stat().st_size > 10_000
    assert f"![far/6, test-clean](figures/{plot.name})" in text


def test_collected_cells_are_json(fake_table: Path, results: Path) -> None:
    assert main(["tables", "collect", str(fake_table), "--results", str(results)]) == 0
    content = json.loads((results / "fakes" / "cells.json").read_text())
    first = content["cells"][0]
    assert (first["row"], first["published"], first["ours"]) == ("good", 5.0, 5.1)
    assert first["interval"] == pytest.approx([4.6, 5.8])
    assert first["difference"] == pytest.approx(0.1)
    assert first["provenance"]["date"] == "2026-01-01"
    assert first["result"].endswith("good/train/result.json")


def test_other_flags_and_other_peoples_results_are_told(fake_table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "fakes"
    data = ["--data", f"speech={tmp_path / 'speech'}"]
    command = ["tables", "run", str(fake_table), "--results", str(tmp_path / "results"), *data]
    assert main([*command, "--rows", "good", "--", "--train:words=[a]"]) == 0
    (folder / "far/6/train").mkdir(parents=True)
    of_a_part = {"test_utterances": {"test-clean": 9}, "test_missing": {"test-clean": 1}}
    theirs = {"metrics": {"test-clean_wer": 5.0}, "parameters": {"total": 5_000_000}, **of_a_part}
    (folder / "far/6/train/result.json").write_text(json.dumps(theirs))
    cells = collect(load_table(str(fake_table)), tmp_path / "results")
    verdicts = {cell.column: cell.verdict for cell in cells if cell.row == "far/6"}
    assert verdicts == {"test-clean": INCOMPLETE, "size": REPRODUCED, "hours": NO_FIGURE}
    notes = {(cell.row, cell.column): cell.note for cell in cells}
    assert (
        "other flags than the table's (--words: [a], now not given)" in notes["good", "test-clean"]
    )
    assert notes["far/6", "size"] == "not made by this table"
    missing = "test utterances that are not scored: 1 of 10 of test-clean"
    assert notes["far/6", "test-clean"] == f"not made by this table; {missing}"
    assert main(["tables", "report", str(fake_table), "--results", str(tmp_path / "results")]) == 0
    text = (folder / "report.md").read_text()
    assert "| far/6 | 5 (part of the test set) (5) |" in text and missing in text


def test_shares_of_another_row(fake_table: Path, results: Path) -> None:
    text = fake_table.read_text().replace(
        "stage: train, metric: metrics", "relative_to: far/6, stage: train, metric: metrics"
    )
    fake_table.write_text(text)
    cells = {(c.row, c.column): c for c in collect(load_table(str(fake_table)), results)}
    share = cells["far/7", "test-clean"]
    assert share.published == 1.0 and share.ours == pytest.approx(7 / 6)
    assert share.interval is None
    result = results / "fakes/far/6/train/result.json"
    result.unlink()
    share = collect(load_table(str(fake_table)), results)[0]
    assert share.ours is None and "row 'far/6', by which it is divided" in share.note
