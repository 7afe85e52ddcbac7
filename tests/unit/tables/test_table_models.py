"""Tables on trained models: what is finished is known by their weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from summarymixing_modules.cli import main


def test_a_model_is_known_by_its_weights_wherever_it_lies(
    fake_table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_table.write_text(fake_table.read_text().replace("optional: True", "weights: True"))
    monkeypatch.chdir(fake_table.parent)
    model, moved = fake_table.parent / "model", fake_table.parent / "moved"
    model.mkdir()
    given = ["tables", "run", str(fake_table), "--rows", "more", "--data"]
    assert main([*given, f"more={model}"]) == 1
    assert "model holds no weights (.safetensors" in capsys.readouterr().err
    (model / "weights.safetensors").write_bytes(b"one")
    assert main([*given, f"more={model}"]) == 0
    model.rename(moved)
    assert main([*given, f"more={moved}"]) == 0
    assert "finished before" in capsys.readouterr().out
    (moved / "weights.safetensors").write_bytes(b"two")
    assert main([*given, f"more={moved}"]) == 1
    assert "was made by another command (weights more: " in capsys.readouterr().err
