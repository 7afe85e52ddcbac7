"""Ratios, slopes and kept bytes of known cases; the comparisons run and check before they time."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from summarymixing_modules.bench import cells
from summarymixing_modules.bench.measure import (
    kept_bytes,
    log_log_slope,
    paired_ratio,
    peak_bytes,
    time_interleaved,
)


def test_ratio_of_known_waits() -> None:
    cases = {"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.005)}
    ratio = paired_ratio(time_interleaved(cases, rounds=3), "slow", "fast")
    assert 2 < ratio < 6


def test_kept_bytes_of_a_linear_layer_are_its_input() -> None:
    layer, x = nn.Linear(8, 4), torch.zeros(16, 8, requires_grad=True)
    assert kept_bytes(lambda: layer(x), layer) == 16 * 8 * 4


def test_slopes_of_powers() -> None:
    lengths = [10, 20, 40]
    assert log_log_slope(lengths, [3 * n for n in lengths]) == pytest.approx(1)
    assert log_log_slope(lengths, [n**2 for n in lengths]) == pytest.approx(2)


def test_chunks_are_checked_and_linear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells.chunks(1, (256, 512), 8)
    assert "of memory 1.0" in capsys.readouterr().out
    wrong = cells.naive_summary_mixing
    monkeypatch.setattr(cells, "naive_summary_mixing", lambda *args: wrong(*args) + 1)
    with pytest.raises(SystemExit, match="not timed"):
        cells.chunks(1, (256, 512), 8)


def test_peak_bytes_counts_what_lives_at_one_time() -> None:
    def run() -> None:
        for _ in range(3):
            a = torch.ones(1000)  # 4 kB
            b = a + 1  # 4 kB
            b.view(10, 100).add_(1)  # nothing new
            del a, b

    assert peak_bytes(run) == 8000
