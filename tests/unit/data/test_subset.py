"""Parts of a corpus: so many hours, the speakers alike, the same every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from summarymixing_modules.data.manifest import ManifestError, Row, read_manifest, write_manifest
from summarymixing_modules.data.subset import (
    balanced_subset,
    speaker,
    subset_path,
    write_subset,
)


def corpus() -> list[Row]:
    """Speaker 1 has 60 utterances of 10 s in two chapters, the others 20 each; 0.33 h."""
    names = [f"1-{chapter}-{n:03d}" for chapter in (1, 2) for n in range(30)]
    names += [f"{one}-9-{n:03d}" for one in (2, 3, 4) for n in range(20)]
    return [Row(n, 10.0, f"$data_root/{n}.flac", "-".join(n.split("-")[:2]), "A") for n in names]


def ids(rows: list[Row]) -> list[str]:
    return [row.id for row in rows]


def test_hours_and_balance() -> None:
    part = balanced_subset(corpus(), 0.1, seed=1)
    assert len(part) == 36
    assert Counter(map(speaker, part)) == {"1": 9, "2": 9, "3": 9, "4": 9}
    assert ids(part) == [row.id for row in corpus() if row in part]


def test_who_has_least_gives_all_and_others_more() -> None:
    counts = Counter(map(speaker, balanced_subset(corpus(), 100 * 10 / 3600, seed=1)))
    assert counts == {"1": 40, "2": 20, "3": 20, "4": 20}


def test_the_seed_decides_and_the_order_does_not() -> None:
    rows = corpus()
    part = balanced_subset(rows, 0.05, seed=1)
    assert ids(part) == ids(balanced_subset(rows, 0.05, seed=1))
    assert set(ids(part)) == set(ids(balanced_subset(rows[::-1], 0.05, seed=1)))
    assert ids(part) != ids(balanced_subset(rows, 0.05, seed=2))
    assert set(ids(part)) < set(ids(balanced_subset(rows, 0.2, seed=1)))


def test_it_is_written_beside_the_manifest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tmp_path / "train.csv"
    write_manifest(manifest, corpus())
    among = {row.id for row in corpus() if speaker(row) != "4"}
    with caplog.at_level("INFO"):
        part = write_subset(manifest, 0.05, 1, among)
    assert subset_path(manifest, 0.05) == tmp_path / "train_0.05h.csv"
    assert subset_path(manifest, None) == manifest
    assert list(read_manifest(tmp_path / "train_0.05h.csv")) == part
    assert set(map(speaker, part)) == {"1", "2", "3"}
    assert "18 of 100 utterances, 0.05 h of 3 speakers, drawn with seed 1" in caplog.text


@pytest.mark.parametrize("hours", [0, -1, 10])
def test_more_than_there_is(hours: float, tmp_path: Path) -> None:
    write_manifest(tmp_path / "train.csv", corpus())
    with pytest.raises(ManifestError, match=f"--train_hours={hours}: .*0.33 h of usable"):
        write_subset(tmp_path / "train.csv", hours, 1)
    assert not (tmp_path / f"train_{hours}h.csv").exists()
