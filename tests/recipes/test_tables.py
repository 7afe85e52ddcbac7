"""A table through real recipes: pre-training and fine-tuning, and two processes under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from summarymixing_modules.cli import main

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
title: Tiny models
data: {speech: {about: a corpus}}
columns:
  accuracy: {stage: pretrain, metric: metrics.valid_accuracy, unit: "%", tolerance: null}
  WER: {stage: fine_tuned, metric: metrics.test-clean_wer, unit: "%", tolerance: null}
rows:
  best-rq/{mixer}:
    for_each: {mixer: [SummaryMixing]}
    stages:
      pretrain:
        recipe: LibriSpeech/SSL/BEST-RQ/hparams/small.yaml
        processes: 2
        flags: &sizes
          data_folder: "{speech}"
          attention_type: "{mixer}"
          training_steps: 2
          num_encoder_layers: 1
          d_model: 16
          nhead: 2
          d_ffn: 32
          kernel_size: 7
          cnn_channels: [4, 4]
          codes: 32
          warmup_steps: 2
      fine_tuned:
        recipe: LibriSpeech/SSL/fine-tuning/hparams/small.yaml
        processes: 1
        flags: {data_folder: "{speech}", encoder: "{pretrain}", training_steps: 2, head_size: 8}
"""


@pytest.fixture
def tiny_table(tmp_path: Path) -> Path:
    """The YAML file of a table of one row."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TABLE)
    return file


def test_torchrun_pretrains_and_one_process_fine_tunes(
    tiny_table: Path, tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    command = [sys.executable, "-m", "summarymixing_modules.cli", "tables", "run", str(tiny_table)]
    command += ["--results", str(results), "--data", f"speech={corpus}"]
    command += ["--launcher", "torchrun", "--gpus", "2", "--"]
    command += ["--device=cpu", "--distributed_backend=gloo", "--noprogressbar"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    row = results / "tiny" / "best-rq" / "SummaryMixing"
    trained = json.loads((row / "pretrain" / "result.json").read_text())
    assert trained["world_size"] == 2 and trained["optimizer_steps"] == 2
    assert json.loads((row / "fine_tuned" / "result.json").read_text())["world_size"] == 1
    assert main(["tables", "report", str(tiny_table), "--results", str(results)]) == 0
    text = (results / "tiny" / "report.md").read_text()
    assert "2 figures: 2 ours only." in text and "2 × " in text
