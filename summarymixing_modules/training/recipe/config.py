"""From the command line to the objects of a recipe: `load_recipe`."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import ddp_init_group
from speechbrain.utils.run_opts import RunOptions

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import options_by_mixer
from summarymixing_modules.training.recipe.consistency import (
    check_machine,
    check_together,
    values_of,
)
from summarymixing_modules.training.recipe.corpus_keys import (
    corpus_options,
    refuse_useless,
    with_corpus,
)
from summarymixing_modules.training.recipe.flag_help import HELP, describe_flags
from summarymixing_modules.training.recipe.options import (
    RESUME_WITH_CHANGES,
    RUN_OPTIONS,
    ConfigError,
    overrides_in,
    read_flags,
    refuse_foreign_mixer_options,
    run_options,
    take_switch,
)
from summarymixing_modules.training.recipe.process import leave_process_group, run
from summarymixing_modules.training.recipe.reads import keys_read
from summarymixing_modules.training.recipe.run_folder import ResolvedRecipe, begin_run
from summarymixing_modules.training.recipe.values import check_values, checked_flags
from summarymixing_modules.training.recipe.yaml_checks import (
    check_yaml,
    in_use,
    read_recipe,
)
from summarymixing_modules.training.recipe.yaml_objects import check_objects
from summarymixing_modules.training.run.run_lock import FolderLock

__all__ = ["ConfigError", "Recipe", "leave_process_group", "load_recipe", "run"]


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe.

    Attributes:
        hparams: the objects of the YAML file by key.
        run_opts: SpeechBrain's run options, for the Brain.
        overrides: the YAML keys given on the command line and their values as text.
        hparams_file: the YAML file, as given.
        lock: keeps other processes out of the output folder while the recipe exists.
    """

    hparams: dict[str, Any]
    run_opts: RunOptions
    overrides: dict[str, str]
    hparams_file: Path
    lock: FolderLock | None = None


def load_recipe(
    argv: Sequence[str], reader: str | Path | Collection[str], free_keys: Collection[str] = ()
) -> Recipe:
    """Read a recipe's YAML file and command line, join the DDP group, take the output folder.

    The YAML file comes first: ``train.py hparams/x.yaml --data_folder=/data --device=cpu``. All
    checks are made before anything is built or written.

    A file has the keys of those that it names under ``base``; see `yaml_checks`. The command line
    wins over all. A run's own ``hyperparams.yaml`` is run again as it is, without flags for its
    keys.

    One process, or the ranks of one torchrun, may work in an output folder. A run that has
    checkpoints is gone on with: if what decides its result has changed, that is refused without
    ``--resume_with_changes=True``; see `training.recipe.settings`.

    Args:
        argv: the command line without the script's name (``sys.argv[1:]``).
        reader: the recipe's train.py, which says ``__file__``: the keys of the YAML file that it
            reads by name are known, see `reads`; or these keys. SpeechBrain's run options are
            known anyway.
        free_keys: those that decide nothing, besides ``settings.FREE_KEYS``: they may differ when
            a run is gone on with.

    Returns:
        The recipe, its objects built.

    Raises:
        ConfigError: no such file, an unknown, repeated or incomplete option, a missing value, or a
            key that nothing reads; an option of another mixer than ``attention_type``. Names it,
            the file and the nearest names.
        InputError: the output folder is in use, cannot be written in, or holds a run with other
            settings.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise ConfigError("Give the recipe's YAML file first: train.py hparams/x.yaml --key=value")
    if argv[0] in ("-h", "--help"):
        sb.parse_arguments(list(argv))  # prints the run options and exits
    arguments, changes_meant = take_switch(argv, RESUME_WITH_CHANGES)
    source = with_corpus(read_recipe(Path(arguments[0])), arguments[1:])
    if HELP & set(arguments):
        print(describe_flags(source))
        sys.exit()
    flags = checked_flags(read_flags(arguments[1:], source.tree), source)
    overrides = overrides_in(flags)
    check_objects(source)
    known_keys = keys_read(reader) if isinstance(reader, str | Path) else frozenset(reader)
    read_by_code = {*known_keys, *corpus_options(source, overrides), *RUN_OPTIONS}
    refuse_useless(source, overrides, known_keys)
    source = in_use(source, overrides, read_by_code)
    check_yaml(source, overrides, read_by_code)
    run_opts = run_options(arguments[0], flags)
    _check_backend(run_opts)
    resolved = ResolvedRecipe(source, overrides)
    _check_settings(resolved, run_opts)
    ddp_init_group(run_opts)
    hparams = _build(resolved)
    lock = begin_run(resolved, hparams, run_opts, {*known_keys}, {*free_keys}, changes_meant)
    return Recipe(hparams, run_opts, resolved.flags, source.file, lock)


def _check_settings(recipe: ResolvedRecipe, run_opts: RunOptions) -> None:
    """Check the values of a recipe, each by its kind and then together."""
    check_values(recipe.tree, recipe.source, recipe.flags)
    given = {name: run_opts[name] for name in run_opts.overridden_args}
    values = values_of(recipe.tree, given)
    if "attention_type" in values:
        mixer = values["attention_type"]
        refuse_foreign_mixer_options(recipe.flags, mixer, options_by_mixer())
    check_together(values, recipe.flags)
    check_machine(values)


def _build(recipe: ResolvedRecipe) -> dict[str, Any]:
    """The objects of a recipe; what a class says against its arguments is told in a sentence."""
    try:
        return dict(load_hyperpyyaml(recipe.text))
    except InputError:
        raise
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"{recipe.source.file} cannot be built so: {error}") from error


def _check_backend(run_opts: RunOptions) -> None:
    """Refuse what the processes of torchrun cannot share; all of them come to the same answer."""
    if "LOCAL_RANK" not in os.environ:
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", int(os.environ["LOCAL_RANK"]) + 1))
    gpus = torch.cuda.device_count()
    if run_opts.distributed_backend == "nccl" and processes > gpus:
        raise ConfigError(
            f"torchrun started {processes} processes on this machine, which has {gpus} GPUs. Start "
            "as many processes as GPUs, or, to train on the CPU, add --distributed_backend=gloo "
            "--device=cpu."
        )
    if processes > 1 and (run_opts.device or "").startswith("cuda"):
        raise ConfigError(
            f"--device={run_opts.device} would put all processes of torchrun on one GPU: leave it "
            "out, and every process takes its own."
        )
