"""``summarymixing demo``: from nothing to a trained recogniser and its figures in minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

from summarymixing_modules.data.demo.corpus import make_demo_corpus
from summarymixing_modules.errors import InputError
from summarymixing_modules.repository import REPOSITORY
from summarymixing_modules.text_tables import aligned, plus_minus
from summarymixing_modules.training.scores.test_sets import interval_of, missing_utterances

RECIPE = Path("recipes/LibriSpeech/ASR/CTC")
HPARAMS = "hparams/small_conformer.yaml"

CAVEAT = """\
The voices are synthetic (espeak-ng) and the sentences come from a small grammar: this figure says
that everything works, not how well the model hears people (±: half of the 95 % interval over draws
of the test sentences). A model of the demo that went on training on 2.4 hours of recorded speech
for two more minutes still got 97 of 100 words wrong there (63 % of the characters): see
RESULTS.md."""


def run_demo(
    data_folder: str,
    output_folder: str,
    attention_type: str = "SummaryMixing",
    train_sentences: int = 5000,
    training_steps: int | None = None,
) -> int:
    """Speaks the corpus, trains the small CTC recipe on it, and prints a table.

    Corpus and training are taken up where an earlier call left them.

    Args:
        data_folder: where to put the corpus.
        output_folder: where to put checkpoints, ``result.json`` and ``curves.png``.
        attention_type: the token mixer.
        train_sentences: size of the training set; dev and test are in proportion.
        training_steps: optimizer steps; None = the recipe's.

    Returns:
        the exit status of the training.

    Raises:
        InputError: the recipes are not beside the package.
    """
    recipe = REPOSITORY / RECIPE
    if not (recipe / "train.py").is_file():
        raise InputError(
            f"the demo runs {RECIPE}/train.py, which is not beside the package: clone the "
            "repository and install it with `pip install -e .`"
        )
    print(make_demo_corpus(data_folder, train_sentences))
    command = [
        sys.executable,
        str(recipe / "train.py"),
        str(recipe / HPARAMS),
        f"--data_folder={Path(data_folder).resolve()}",
        f"--output_folder={Path(output_folder).resolve()}",
        f"--attention_type={attention_type}",
    ]
    if training_steps is not None:
        command.append(f"--training_steps={training_steps}")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    status = subprocess.run(command, env=environment, check=False).returncode
    if status == 0:
        print(describe(Path(output_folder)))
    return status


def describe(output_folder: Path) -> str:
    """The figures of a finished run as a table, with what they mean and where the rest is."""
    result: dict[str, Any] = json.loads((output_folder / "result.json").read_text())
    missing = missing_utterances(result)
    wer = plus_minus(f"{result['test_wer']:.2f}", interval_of(result.get("intervals"), "test_wer"))
    rows = [
        ("mixer", result["architecture"]["attention_type"]),
        ("test WER, unseen voices and sentences", f"{wer} %"),
        *([("of a part of them", missing)] if missing else []),
        ("parameters", f"{result['parameters']['total'] / 1e6:.2f} M"),
        ("real-time factor of decoding", f"{result['real_time_factor']:.4f}"),
        ("training", f"{result['train_seconds']:.0f} s"),
        ("peak memory", f"{result['peak_memory_mb']:.0f} MB, {result['peak_memory_of']}"),
        ("figures", str(output_folder / "result.json")),
        ("curves", str(output_folder / "curves.png")),
    ]
    return f"\n{indent(aligned(rows), '  ')}\n\n{CAVEAT}"
