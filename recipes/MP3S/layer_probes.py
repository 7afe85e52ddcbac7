"""What every layer of an encoder holds: linear probes for speaker, content and emotion.

    python layer_probes.py --encoders A B --corpora=/data --output_folder=layer_probes
    python layer_probes.py --encoders A --corpora=/data --tasks content --max_hours=1 --device=cuda

The same command again goes on where it was stopped. One picture and one CSV file for each task, one
line for each encoder; everything in layer_probes.json.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.encoder import frozen_encoder
from summarymixing_modules.probing.layer_figures import LayerProbe, read_results, write_results
from summarymixing_modules.probing.layer_probes import TASKS
from summarymixing_modules.probing.layer_states import (
    EncodedCorpora,
    check_memory,
    depends_on,
    prepare_corpora,
)
from summarymixing_modules.training.recipe.config import run
from summarymixing_modules.training.recipe.keys import KINDS
from summarymixing_modules.training.recipe.kinds import POSITIVE, POSITIVE_WHOLE
from summarymixing_modules.training.recipe.values import check_options
from summarymixing_modules.training.run.report import provenance

_AS_IN_RECIPES = ("device", "num_workers", "prep_workers", "max_bad_audio", "seed")
KINDS_OF_OPTIONS = {
    "max_hours": POSITIVE,
    "batch_seconds": POSITIVE,
    "content_epochs": POSITIVE_WHOLE,
    **{name: KINDS[name] for name in _AS_IN_RECIPES},
}


def main(argv: Sequence[str]) -> None:
    """Probes the encoders, each task once; prints where the results are.

    Encoders, corpora and memory are checked before anything is encoded.
    """
    settings = parse(argv)
    paths, folder = named(settings.encoders), settings.output_folder
    results = read_results(folder)
    load = partial(frozen_encoder, trust_run=settings.trust_run)
    digests = {name: load(path).digest() for name, path in paths.items()}
    corpora = prepare_corpora(settings)
    tasks = [task for task in TASKS if task in settings.tasks]
    wanted = {task: depends_on(task, corpora[task], settings) for task in tasks}

    def finished(name: str, task: str) -> list[LayerProbe]:
        """The probes of an encoder, whatever it was called then; or none."""
        key = (digests[name], task, wanted[task])
        found = (p for p in results if (p.encoder_digest, p.task, p.settings) == key)
        return [probe._replace(encoder=name) for probe in found][:1]

    def write() -> list[Path]:
        shown = [probe for task in wanted for name in paths for probe in finished(name, task)]
        return write_results(folder, results, shown)

    missing = {name: [task for task in tasks if not finished(name, task)] for name in paths}
    for name in (name for name in paths if "content" in missing[name]):
        check_memory(name, load(paths[name]), corpora["content"])
    for name in (name for name in paths if missing[name]):
        encoder = load(paths[name]).to(settings.device)
        probed = EncodedCorpora(name, encoder, corpora, settings, "content" in missing[name])
        for task in missing[name]:
            started = time.perf_counter()
            figures, chance, details = TASKS[task](probed)
            details |= {"seconds": time.perf_counter() - started, "device": settings.device}
            about = (name, str(paths[name]), digests[name], task, wanted[task])
            results.append(LayerProbe(*about, figures, chance, details | provenance()))
            write()
    print(*write(), sep="\n")


def named(folders: Sequence[str]) -> dict[str, Path]:
    """Encoders by the names of their folders."""
    found: dict[str, Path] = {}
    for path in map(Path, folders):
        if not path.is_dir():
            raise InputError(
                f"--encoders {path}: no such folder. Give a bundle (summarymixing export), the "
                "output folder of a pre-training, or a local folder with a model of Hugging Face."
            )
        name = Path(os.path.abspath(path)).name
        if name in found:
            raise InputError(
                f"--encoders {found[name]} {path}: both are called {name}, and pictures could not "
                "tell them apart: give one through a link of another name."
            )
        found[name] = path
    return found


def parse(argv: Sequence[str]) -> argparse.Namespace:
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
    settings = parser.parse_args(argv)
    check_options(vars(settings), KINDS_OF_OPTIONS)
    if not settings.corpora.is_dir():
        raise InputError(f"--corpora={settings.corpora}: no such folder.")
    return settings


if __name__ == "__main__":
    run(main)
