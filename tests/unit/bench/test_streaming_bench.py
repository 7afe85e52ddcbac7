"""The benchmark of streams runs, checks itself and reports constant memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from summarymixing_modules.bench import streaming


def test_a_minute_or_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stream.json"
    streaming.main(["--minutes=2", "--size=tiny", f"--output={file}", "--chunk_size=32"])
    printed = capsys.readouterr().out
    assert "last / first minute: state 1.000" in printed and "real-time factor" in printed
    rows = json.loads(file.read_text())["minutes"]
    assert [row["minute"] for row in rows] == [1, 2]
    assert rows[0]["state_bytes"] == rows[1]["state_bytes"] > 0
    assert all(0 < row["chunk_ms"] <= row["slowest_ms"] for row in rows)


def test_what_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "check_equal", lambda recognizer: 1.0)
    with pytest.raises(SystemExit, match="not timed"):
        streaming.main(["--minutes=1", "--size=tiny"])
