"""From the command line to the objects of a recipe: `load_recipe`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.core import DEFAULT_LOG_CONFIG
from speechbrain.utils.distributed import (
    ddp_init_group,
    if_main_process,
    is_distributed_initialized,
)
from speechbrain.utils.run_opts import RunOptions

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import options_by_mixer
from summarymixing_modules.training.options import (
    RUN_OPTIONS,
    ConfigError,
    read_overrides,
    refuse_foreign_mixer_options,
    with_numbers,
)
from summarymixing_modules.training.yaml_checks import check_yaml, read_recipe

__all__ = ["ConfigError", "Recipe", "leave_process_group", "load_recipe", "run"]


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe.

    Attributes:
        hparams: the objects of the YAML file by key.
        run_opts: SpeechBrain's run options, for the Brain.
        overrides: the YAML keys given on the command line and their values as text.
        hparams_file: the YAML file, as given.
    """

    hparams: dict[str, Any]
    run_opts: RunOptions
    overrides: dict[str, str]
    hparams_file: Path


def load_recipe(argv: Sequence[str], known_keys: Collection[str]) -> Recipe:
    """Read a recipe's YAML file and command line, join the DDP group, make the output folder.

    The YAML file comes first: ``train.py hparams/x.yaml --data_folder=/data --device=cpu``. All
    checks are made before anything is built or written.

    A file that starts with ``base: x.yaml`` is a variant of the recipe x.yaml: it holds nothing but
    keys of x.yaml with other values, and ``known_keys`` that x.yaml lacks. The command line wins
    over both.

    Args:
        argv: the command line without the script's name (``sys.argv[1:]``).
        known_keys: the top-level keys of the YAML file that code reads by name: those of train.py
            and the Brain's ``known_keys``. SpeechBrain's run options are known anyway.

    Returns:
        The recipe, its objects built.

    Raises:
        ConfigError: no such file, an unknown, repeated or incomplete option, a missing value, or a
            key that nothing reads; in a variant, a key that its base does not have; an option of
            another mixer than ``attention_type``. Names it, the file and the nearest names.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise ConfigError("Give the recipe's YAML file first: train.py hparams/x.yaml --key=value")
    if argv[0] in ("-h", "--help"):
        sb.parse_arguments(list(argv))  # prints the run options and exits
    source = read_recipe(Path(argv[0]), known_keys)
    overrides = read_overrides(argv[1:], {**source.tree, **source.changes})
    check_yaml(source, overrides, {*known_keys, *RUN_OPTIONS})
    _, run_opts, override_text = sb.parse_arguments(list(argv))
    override_text = source.overrides(override_text)
    run_opts = with_numbers(run_opts)
    _check_backend(run_opts)
    ddp_init_group(run_opts)
    with source.written_in.open(encoding="utf-8") as stream:
        # Keys that the file lacks have been checked: they are additions of a variant.
        hparams = load_hyperpyyaml(stream, override_text, overrides_must_match=False)
    if "attention_type" in hparams:
        refuse_foreign_mixer_options(overrides, hparams["attention_type"], options_by_mixer())
    _make_output_folder(hparams, source.written_in, override_text, run_opts)
    return Recipe(hparams, run_opts, overrides, source.file)


def run(main: Callable[[Sequence[str]], object]) -> None:
    """The last line of a train.py: an error that a person can mend ends it with one sentence.

    Args:
        main: the recipe; gets the command line without the script's name.
    """
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    finally:
        leave_process_group()


def leave_process_group() -> None:
    """Leave the DDP group, if there is one."""
    if is_distributed_initialized():
        torch.distributed.destroy_process_group()


def _check_backend(run_opts: RunOptions) -> None:
    local_rank = os.environ.get("LOCAL_RANK")
    needs_gpus = local_rank is not None and run_opts.distributed_backend == "nccl"
    if needs_gpus and int(local_rank or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started process {local_rank} of this machine, which has "
            f"{torch.cuda.device_count()} GPUs. Start as many processes as GPUs, or, to train on "
            "the CPU, add --distributed_backend=gloo --device=cpu."
        )


def _make_output_folder(
    hparams: dict[str, Any], file: Path, override_text: str, run_opts: RunOptions
) -> None:
    """Make the experiment's folder with the resolved YAML file, the log and the script."""
    if "output_folder" not in hparams:
        raise ConfigError(f"{file} has no output_folder: where should the results go?")
    folder = Path(hparams["output_folder"])
    sb.create_experiment_directory(
        folder,
        hyperparams_to_save=file,
        overrides=override_text,
        log_config=run_opts.log_config or DEFAULT_LOG_CONFIG,
    )
    if if_main_process():
        # SpeechBrain copies the file that calls it, this one; the user's script is worth more.
        (folder / Path(__file__).name).unlink(missing_ok=True)
        script = Path(sys.argv[0])
        if script.is_file():
            shutil.copy(script, folder)
