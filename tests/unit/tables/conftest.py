"""A recipe of seconds that trains nothing, and a table of it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

TRAIN = """
import json, os, pathlib, sys, time

flags = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[2:])
folder = pathlib.Path(flags["output_folder"])
folder.mkdir(parents=True, exist_ok=True)
if "start" in flags:
    assert (pathlib.Path(flags["start"]) / "result.json").is_file()
steps = folder / "steps"
done = len(steps.read_text().splitlines()) if steps.exists() else 0
print(f"from step {done}", flush=True)
for step in range(done, int(flags.get("steps", 2))):
    with steps.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(float(flags.get("pace", 0)))
if flags.get("fail") == "True":
    print("Traceback: boom", file=sys.stderr)
    sys.exit(3)
wer = float(flags.get("wer", 5.0))
matrix = [{"chunk_size": 8, "chunk_ms": 320.0, "left_chunks": 4, "wer": wer + 1}]
matrix += [{"chunk_size": None, "chunk_ms": None, "left_chunks": None, "wer": wer}]
result = {
    "metrics": {"test-clean_wer": wer}, "intervals": {"test-clean_wer": [wer - 0.5, wer + 0.7]},
    "streaming_matrix": {"test-clean": matrix},
    "parameters": {"total": 2_500_000}, "train_seconds": 7200.0, "world_size": 2,
    "device": "cpu", "device_name": "a test", "precision": "fp32", "git_commit": None,
    "date": "2026-01-01", "command": "train.py", "peak_memory_of": "process (RSS)",
}
(folder / "result.json").write_text(json.dumps(result))
"""

HPARAMS = """
data_folder: !PLACEHOLDER
output_folder: !PLACEHOLDER
start: null
init_from: null
trust_run: False
steps: 2
pace: 0.0
fail: False
wer: 5.0
grad_accumulation_factor: 2
words: []
"""

TABLE = """
title: A table of fakes
source: a paper, table 1
data:
  speech: {about: where the speech is}
  more: {about: more speech, optional: True}
columns:
  test-clean: {stage: train, metric: metrics.test-clean_wer, unit: WER %, tolerance: 0.2}
  size: {stage: train, metric: parameters_millions, unit: M, tolerance: 10 %}
  hours: {stage: train, metric: gpu_hours, tolerance: null}
shared:
  words: {recipe: ./fake/hparams/fake.yaml, flags: {data_folder: "{speech}"}}
rows:
  good:
    stages:
      train: &train
        recipe: ./fake/hparams/fake.yaml
        flags: &flags {data_folder: "{speech}", start: "{words}", wer: 5.1}
    published: {test-clean: 5.0, size: 2.5, hours: 3}
  bad:
    stages:
      train: {<<: *train, flags: {<<: *flags, fail: True}}
      after:
        recipe: ./fake/hparams/fake.yaml
        flags: {data_folder: "{speech}", start: "{train}"}
    published: [5.0, null, null]
  far/{wer}:
    for_each: {wer: [6, 7]}
    stages:
      train: {<<: *train, flags: {<<: *flags, wer: "{wer}"}}
    published: {test-clean: 5.0, size: 5}
  more:
    stages:
      train: {recipe: ./fake/hparams/fake.yaml, processes: 4, flags: {data_folder: "{more}"}}
  theirs:
    published: {test-clean: 4.0}
    note: another model
"""


@pytest.fixture
def fake_table(tmp_path: Path) -> Path:
    """The YAML file of a table whose recipe is beside it."""
    (tmp_path / "fake" / "hparams").mkdir(parents=True)
    (tmp_path / "fake" / "train.py").write_text(TRAIN)
    (tmp_path / "fake" / "hparams" / "fake.yaml").write_text(HPARAMS)
    (tmp_path / "speech").mkdir()
    file = tmp_path / "fakes.yaml"
    file.write_text(textwrap.dedent(TABLE))
    return file
