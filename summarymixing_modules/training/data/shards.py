"""``summarymixing shard``: the corpus of a recipe as a few large files (see data/shards)."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from summarymixing_modules.data.preparation import TRANSCRIPT
from summarymixing_modules.data.shards.flags import add_shard_flags
from summarymixing_modules.data.shards.folder import ShardFolder
from summarymixing_modules.data.shards.job import PREPARATION
from summarymixing_modules.data.shards.plan import Layout
from summarymixing_modules.data.shards.writing import ShardWriting
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.data.manifests import (
    comparable_options,
    data_folder,
    prepare_corpus,
)
from summarymixing_modules.training.recipe.prepare import PlainValues, data_settings
from summarymixing_modules.training.run.run_lock import hold


def run_shard(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        InputError: a flag that means nothing, or see `write_shards` and `ShardFolder.verify`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="summarymixing shard", allow_abbrev=False)
    add_shard_flags(parser)
    arguments, flags = parser.parse_known_args(arguments.flags, arguments)
    if arguments.verify is not None:
        ShardFolder.read(Path(arguments.verify)).verify()
        print(f"{arguments.verify}: every file is what was written.")
        return 0
    if arguments.recipe is None or arguments.shards is None:
        raise InputError("Give the YAML file of a recipe first, and --shards=FOLDER to write to.")
    layout = Layout(
        arguments.shard_size, arguments.audio, arguments.keep_order, arguments.shard_seed
    )
    done = write_shards(Path(arguments.recipe), flags, Path(arguments.shards), layout)
    count = sum(len(split.shards) for split in done.splits.values())
    print(f"{done.path}: {count} shards. Train with --shards={done.path}.")
    return 0


def write_shards(file: Path, flags: Sequence[str], folder: Path, layout: Layout) -> ShardFolder:
    """Prepares the corpus of a recipe, and writes it as shards; what is finished is kept.

    Args:
        file: the recipe's YAML file.
        flags: of the recipe, as for `prepare_data`; without ``output_folder`` manifests go into
            the folder of shards.
        folder: to write to.
        layout: of the shards.

    Raises:
        InputError: see `data_settings`, `prepare_corpus` and `ShardWriting`.
    """
    preparation = folder / PREPARATION
    _, hparams = data_settings(file, flags, {"output_folder": str(preparation)})
    writing = _writing(hparams, folder, layout)
    writing.begin()
    locks = [hold(place) for place in {preparation, Path(hparams["output_folder"])}]
    # What utterances need besides audio, as the recipe's load_data would ask for it.
    wanted = [TRANSCRIPT] if "token_type" in hparams else hparams.get("tasks", [])
    done = writing.write(prepare_corpus(hparams, wanted))
    for lock in locks:
        if lock is not None:
            lock.release()
    return done


def _writing(hparams: PlainValues, folder: Path, layout: Layout) -> ShardWriting:
    return ShardWriting(
        folder,
        hparams["corpus"],
        comparable_options(hparams),
        layout,
        data_folder(hparams),
        hparams["prep_workers"],
        hparams["max_bad_audio"],
        hparams.get("test_max_bad_audio", 0.0),
    )
