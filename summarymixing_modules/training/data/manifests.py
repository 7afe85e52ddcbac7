"""From the keys of a recipe to the manifests of its corpus, whichever that is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import if_main_process, is_distributed_initialized
from speechbrain.utils.logger import get_logger
from torch import distributed

from summarymixing_modules.data.corpora import corpus_spec
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.data.preparation import Preparation
from summarymixing_modules.data.shards.folder import ShardFolder
from summarymixing_modules.errors import InputError

logger = get_logger(__name__)

#: Minutes after which preparing beforehand is recommended.
_LONG = 5


def prepare_corpus(hparams: Mapping[str, Any], wanted: Sequence[str] = ()) -> Manifests:
    """Writes the manifests of a corpus on the main process; every process learns where they are.

    Args:
        hparams: with the key ``corpus``, those that all corpora have, and its own; or with
            ``shards``, which have been prepared already.
        wanted: what every utterance must have besides its audio; see `Preparation`.

    Raises:
        InputError: no such corpus, a key that it needs is missing, or see its preparation; or the
            shards are not whole, or of another preparation.
    """
    corpus = corpus_spec(hparams["corpus"])
    if hparams.get("shards") is not None:
        folder, save = shards_of(hparams), Path(hparams["save_folder"])
        on_main_first(partial(folder.install, save))
        return folder.manifests(save)
    preparation = Preparation(
        data_folder(hparams),
        Path(hparams["save_folder"]),
        hparams["prep_workers"],
        hparams["verify_audio"],
        hparams["max_bad_audio"],
        hparams.get("test_max_bad_audio", 0.0),
        hparams["skip_prep"],
        wanted=tuple(wanted),
    )
    options = corpus.options_in(hparams)
    on_main_first(partial(corpus.prepare, preparation, **options))
    return corpus.prepare(replace(preparation, skip_prep=True), **options)


def data_folder(hparams: Mapping[str, Any]) -> Path:
    """Where the corpus of a recipe is: ``data_folder`` or ``shards``, or beside its tables."""
    if (shards := hparams.get("shards")) is not None:
        return Path(shards)
    folder, named = hparams["data_folder"], corpus_spec(hparams["corpus"]).folder_of
    if folder is None and named is not None:
        return Path(hparams[named]).absolute().parent
    return Path(folder)


def shards_of(hparams: Mapping[str, Any]) -> ShardFolder:
    """The shards that a recipe names, which are of its corpus, prepared as it asks for.

    What a corpus reads of keys that mean something else, too (`CorpusSpec.of_recipes`), may differ.

    Raises:
        InputError: no shards, or others.
    """
    folder = ShardFolder.read(Path(hparams["shards"]))
    asked = {"corpus": hparams["corpus"], **comparable_options(hparams)}
    made = {"corpus": folder.corpus, **folder.options}
    differing = [key for key, value in asked.items() if key in made and made[key] != value]
    if differing:
        flags = " ".join(f"--{key}={json.dumps(made[key])}" for key in differing)
        raise InputError(
            f"--shards={folder.path}: were made with {flags}, and the recipe asks for "
            f"{', '.join(json.dumps(asked[key]) for key in differing)}: leave these flags out, or "
            "write other shards"
        )
    return folder


def comparable_options(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recipe's corpus that decide what its shards hold, as JSON has them."""
    spec = corpus_spec(hparams["corpus"])
    options = {name: hparams[name] for name in spec.flags if name in hparams}
    return dict(json.loads(json.dumps(options)))


def on_main_first(work: Callable[[], object]) -> None:
    """Works on the main process while the others wait, however long it takes.

    SpeechBrain's ``run_on_main`` waits in the group that trains: it gives up after its timeout, and
    a corpus may take longer. The group made here waits a year, and is gone afterwards.

    Args:
        work: what to do.
    """
    if not is_distributed_initialized():
        work()
        return
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    started = time.monotonic()
    if if_main_process():
        work()
        if (minutes := (time.monotonic() - started) / 60) > _LONG:
            logger.warning(
                f"{distributed.get_world_size()} processes have waited {minutes:.0f} minutes for "
                "one to prepare the corpus. `summarymixing prepare RECIPE.yaml` with the flags of "
                "the training does that before it starts."
            )
    distributed.barrier(group)
    distributed.destroy_process_group(group)
