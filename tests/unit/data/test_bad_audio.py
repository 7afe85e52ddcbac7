"""The list of unusable audio: one line a file, shared by processes, and a limit."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from summarymixing_modules.data.bad_audio import (
    BadAudioLog,
    BadFile,
    TooManyBadFiles,
    tolerated,
)


@pytest.mark.parametrize(
    ("total", "fraction", "allowed"),
    [(100000, 0.01, 1000), (10, 0.01, 1), (199, 0.01, 1), (200, 0.01, 2), (10, 0.0, 0), (5, 1, 5)],
)
def test_tolerated(total: int, fraction: float, allowed: int) -> None:
    assert tolerated(total, fraction) == allowed


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_a_fraction_outside_its_range_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="--max_bad_audio"):
        BadAudioLog(tmp_path / "bad.csv", 10, fraction)


def test_one_line_a_file_however_often_it_is_met(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = BadAudioLog(tmp_path / "sub" / "bad.csv", 1000)
    assert len(log) == 0 and not log.csv_path.exists()
    assert log.record("/a.flac", "a", 'broken, "quite"\nso')
    assert not log.record("/a.flac", "a", "again")
    assert log.record_all([BadFile("/b.flac", "b", "x"), BadFile("/b.flac", "b", "y")]) == 1
    lines = log.csv_path.read_text().splitlines()
    assert lines == ["path,id,reason", '/a.flac,a,"broken, ""quite"" so"', "/b.flac,b,x"]
    assert log.read()[1] == BadFile("/b.flac", "b", "x")
    assert "Unusable utterance a left out" in caplog.text


def test_the_limit(tmp_path: Path) -> None:
    log = BadAudioLog(tmp_path / "bad.csv", total=300, max_bad_fraction=0.01)
    for name in "abc":
        log.record(f"/{name}", name, "broken")
    with pytest.raises(TooManyBadFiles) as caught:
        log.record("/d", "d", "/d: is empty")
    message = str(caught.value)
    for part in ("4 of 300", "3 allowed by --max_bad_audio 0.01", "/d: is empty", "bad.csv"):
        assert part in message
    assert len(log) == 4


def test_a_file_met_in_an_earlier_run_is_not_counted_twice(tmp_path: Path) -> None:
    for _ in range(3):
        BadAudioLog(tmp_path / "bad.csv", total=10).record("/a", "a", "broken")
    with pytest.raises(TooManyBadFiles):
        BadAudioLog(tmp_path / "bad.csv", total=10).record("/b", "b", "broken")


def test_forget_a_folder(tmp_path: Path) -> None:
    log = BadAudioLog(tmp_path / "bad.csv", total=1000)
    for path in ("/c/dev/1.flac", "/c/dev-other/2.flac", "/c/test/3.flac"):
        log.record(path, path, "broken")
    log.forget("/c/dev")
    assert [file.path for file in log.read()] == ["/c/dev-other/2.flac", "/c/test/3.flac"]


def _record_many(csv_path: Path) -> None:
    log = BadAudioLog(csv_path, total=10_000)
    for index in range(25):
        log.record(f"/{index}.flac", str(index), "broken " * 50)


def test_processes_that_meet_the_same_files_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_record_many, args=(tmp_path / "bad.csv",)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    listed = BadAudioLog(tmp_path / "bad.csv", total=10_000).read()
    assert sorted(int(file.id) for file in listed) == list(range(25))
    assert len((tmp_path / "bad.csv").read_text().splitlines()) == 26
