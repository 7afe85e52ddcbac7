"""What every layer of an encoder holds: linear probes for speaker, content and emotion.

    python layer_probes.py --encoders A B --corpora=/data --output_folder=layer_probes
    python layer_probes.py --encoders A --corpora=/data --tasks content --max_hours=1 --device=cuda

The same command again goes on where it was stopped. One picture and one CSV file for each task, one
line for each encoder; everything in layer_probes.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.layer_data import Settings
from summarymixing_modules.probing.layer_probes import probe_layers
from summarymixing_modules.probing.layer_tasks import TASKS
from summarymixing_modules.training.recipe.config import run
from summarymixing_modules.training.recipe.keys import KINDS
from summarymixing_modules.training.recipe.kinds import POSITIVE, POSITIVE_WHOLE
from summarymixing_modules.training.recipe.values import check_options

_AS_IN_RECIPES = ("device", "num_workers", "prep_workers", "max_bad_audio", "seed")
KINDS_OF_OPTIONS = {
    "max_hours": POSITIVE,
    "batch_seconds": POSITIVE,
    "content_epochs": POSITIVE_WHOLE,
    **{name: KINDS[name] for name in _AS_IN_RECIPES},
}


def main(argv: Sequence[str]) -> None:
    """Probes the encoders; prints where the results are."""
    for path in probe_layers(parse(argv)):
        print(path)


def parse(argv: Sequence[str]) -> Settings:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--encoders", nargs="+", required=True, help="bundles, runs, or folders of Hugging Face")
    add("--trust_run", action="store_true", help="of --encoders; the YAML file of a run is code")
    corpora = "folder that holds LibriSpeech/, IEMOCAP_full_release/"
    add("--corpora", type=Path, required=True, help=corpora)
    add("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all")
    add("--output_folder", type=Path, default=Path("layer_probes"), help="where results go")
    add("--max_hours", type=float, default=5.0, help="of train-clean-100, and of test-clean")
    add("--content_epochs", type=int, default=10, help="of the CTC layers")
    add("--batch_seconds", type=float, default=40.0, help="audio of a batch, with its padding")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--num_workers", type=int, default=0, help="processes that read audio")
    add("--prep_workers", type=int, default=8, help="threads that examine audio files")
    add("--max_bad_audio", type=float, default=0.01, help="part of a corpus that may be unusable")
    add("--seed", type=int, default=1986, help="of all draws")
    settings = parser.parse_args(argv, namespace=Settings())
    check_options(vars(settings), KINDS_OF_OPTIONS)
    if not settings.corpora.is_dir():
        raise InputError(f"--corpora={settings.corpora}: no such folder.")
    return settings


if __name__ == "__main__":
    run(main)
