"""The ``summarymixing`` command, in process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from summarymixing_modules import __version__, demo
from summarymixing_modules.cli import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--d_model=32", "--nhead=4", "--d_ffn=64", "--frames=10"]


def test_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == __version__
    for wrong in ([], ["mixer"], ["mixers", "--frame=many"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
    assert "usage: summarymixing" in capsys.readouterr().err


def test_mixers_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mixers", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "\nRoPEMHA" in out and "\nSummaryMixing-lite" in out
    assert "T=10" in out and "T=40" in out and "Options" not in out


def test_one_mixer_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mixers", "--attention_type=hypermixing", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "RoPEMHA" not in out
    assert "Options of hypermixing:" in out and "hypernet_size  None" in out


def test_mixers_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mixers", "--json", "--attention_type=SummaryMixing", *SMALL]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["form"] for row in rows][:2] == ["SummaryMixing", "SummaryMixing-lite"]
    assert all(row["flops_per_frame"]["10"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attention_type=SumMixing"], "unknown attention_type 'SumMixing'"),
        (["--frames=0"], "--frames=0 must be at least 1"),
        (["--nhead=5", "--attention_type=fastformer"], "fastformer cannot have --d_model=512"),
    ],
)
def test_errors_are_one_line_and_a_status(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mixers", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PermissionError(13, "Permission denied", "/x"), 1, "error: Permission denied: /x\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_a_person_can_mend_has_no_traceback(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert main(["demo"]) == status and capsys.readouterr().err == said


def test_demo_gets_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def run_demo(*arguments: object) -> int:
        calls.append(arguments)
        return 3

    monkeypatch.setattr(demo, "run_demo", run_demo)
    assert main(["demo", "--attention_type=mamba", "--training_steps=7"]) == 3
    assert calls == [("data/demo", "results/demo", "mamba", 5000, 7)]


@pytest.mark.parametrize("command", ["bench", "plan"])
def test_help_of_what_takes_many_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    out = capsys.readouterr().out
    expected = {"bench": ("--seconds", "--compare"), "plan": ("RECIPE.yaml", "--memory_gb")}
    assert all(flag in out for flag in expected[command])


def test_nothing_heavy_is_imported_unasked(tmp_path: Path) -> None:
    """--help takes no time, and to load a bundle PyTorch's compiler is not needed (3 s)."""
    script = """
import sys
from pathlib import Path
from summarymixing_modules.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
assert not {"torch", "numpy", "speechbrain"} & set(sys.modules)
from summarymixing_modules.bundles import load_bundle
from tests.unit.bundles.conftest import tiny_content
from summarymixing_modules.bundles.export import write_bundle
write_bundle(tiny_content(), Path("bundle"))
import summarymixing_modules.inference.command
load_bundle("bundle")
assert "torch._dynamo" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
