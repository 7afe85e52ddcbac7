"""The output folder of a run: where it is, who works in it, and the record of its settings.

``hyperparams.yaml`` in it is a record: the recipe's YAML file with all references resolved. It can
be run again as it is; flags mean nothing to it, since nothing in it refers to anything.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import speechbrain as sb
from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from speechbrain.core import DEFAULT_LOG_CONFIG
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.run_opts import RunOptions

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.training.recipe.options import ConfigError, as_yaml
from summarymixing_modules.training.recipe.settings import of_recipe, refuse_changes
from summarymixing_modules.training.recipe.yaml_checks import (
    GENERATED,
    RecipeFile,
    is_record,
    readers_of,
    tag_of,
)
from summarymixing_modules.training.run.report import RESOLVED_YAML, describe_environment
from summarymixing_modules.training.run.run_lock import FolderLock, hold

_FLAGS = "# flags: "
_KEY, _EPOCHS = "output_folder", "number_of_epochs"


class ResolvedRecipe:
    """A recipe with all references resolved.

    Args:
        source: the recipe's file.
        overrides: the flags that are given for its keys.

    Attributes:
        text: the file with its bases, as YAML.
        tree: its content; nothing is built.
        flags: the overrides; of a record, those that the run was started with.
        folder: the output folder.

    Raises:
        ConfigError: it names no output folder, or one that cannot be; or a record is given flags,
            or does not lie in the folder of its run.
    """

    def __init__(self, source: RecipeFile, overrides: Mapping[str, str]) -> None:
        self.source, self.flags = source, dict(overrides)
        self._overrides = as_yaml(overrides)
        self.text = self._resolve(self._overrides)
        self.tree: dict[str, Any] = YAML().load(self.text)
        self.folder = output_folder(self.tree, source.file)
        if is_record(source.file):
            check_record(source.file, overrides, self.folder)
            self.flags = _read_head(source.file)[1]

    def tree_with(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The content, if some keys had other values."""
        if not changes:
            return self.tree
        more = io.StringIO()
        yaml = YAML()
        yaml.dump({**(yaml.load(self._overrides) or {}), **changes}, more)
        content: dict[str, Any] = yaml.load(self._resolve(more.getvalue()))
        return content

    def derived_keys(self) -> set[str]:
        """Keys whose values refer to others."""
        given = self.source.tree.items()
        return {key for key, node in given if tag_of(node) == "!ref" and key not in self.flags}

    def record(self) -> str:
        """What is kept in the output folder as ``hyperparams.yaml``."""
        if is_record(self.source.file):
            return self.source.file.read_text(encoding="utf-8")
        flags = json.dumps(self.flags, ensure_ascii=False)
        source = self.source.file.absolute()
        head = [f"{GENERATED}{date.today()} from:", f"# {source}", f"{_FLAGS}{flags}"]
        return "\n".join([*head, "# yamllint disable", self.text])

    def _resolve(self, overrides: str) -> str:
        return str(resolve_references(self.source.text(), overrides).getvalue())


def begin_run(
    recipe: ResolvedRecipe,
    hparams: dict[str, Any],
    run_opts: RunOptions,
    known_keys: set[str],
    free_keys: set[str],
    changes_meant: bool,
) -> FolderLock | None:
    """Take the output folder, compare its checkpoints' settings, and write down what this run is.

    Args:
        recipe: to be run.
        hparams: its objects; gets ``run_settings`` if it is trained.
        run_opts: of this start.
        known_keys: keys that code reads by name.
        free_keys: keys that decide nothing.
        changes_meant: go on with a run although its settings differ.

    Returns:
        the lock of the folder, to be kept; see `run_lock.hold`.

    Raises:
        InputError: the folder is in use, cannot be written in, or holds a run with other settings.
    """
    lock = hold(recipe.folder)
    if run_opts.test_only and (recipe.folder / RESOLVED_YAML).exists():
        _fill(recipe.folder, None, run_opts)  # the record is of the training
        return lock
    if not run_opts.test_only:
        if _EPOCHS not in known_keys and readers_of(recipe.source, _EPOCHS) <= {"epoch_counter"}:
            free_keys = free_keys | {_EPOCHS}  # more of them change nothing before the end
        settings = of_recipe(
            recipe.tree,
            run_opts,
            free_keys,
            recipe.derived_keys(),
            recipe.tree_with,
            changes_meant,
        )
        temporary = run_opts.debug and not run_opts.debug_persistently
        if "checkpointer" in hparams and not temporary:
            refuse_changes(settings, hparams["checkpointer"])
        hparams["run_settings"] = settings
    _fill(recipe.folder, recipe.record(), run_opts)
    return lock


def output_folder(tree: Mapping[str, Any], file: Path) -> Path:
    """The output folder that a recipe names; nothing is written.

    Args:
        tree: the YAML file, resolved.
        file: its path, for messages.

    Raises:
        ConfigError: there is none, or it cannot be one.
    """
    if _KEY not in tree:
        raise ConfigError(f"{file} has no {_KEY}: where should the results go?")
    value = tree[_KEY]
    if value is None or value == "":
        raise ConfigError(f"--{_KEY} is empty: where should the results go?")
    if not isinstance(value, str):
        raise ConfigError(f"--{_KEY}={value} is no name of a folder: write --{_KEY}=./{value}")
    folder = Path(value)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--{_KEY}={folder}: {there} is a file; give a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--{_KEY}={folder}: you may not write in {there}; give another folder.")
    return folder


def _fill(folder: Path, record: str | None, run_opts: RunOptions) -> None:
    """Put the record, a log, a description of the environment and the script into the folder."""
    if if_main_process() and record is not None:
        write_atomically(folder / RESOLVED_YAML, record)
    log_config = run_opts.log_config or DEFAULT_LOG_CONFIG
    # SpeechBrain asks the pip on the PATH for the packages: for a second, and of whatever Python.
    sb.create_experiment_directory(folder, log_config=log_config, save_env_desc=False)
    if if_main_process():
        write_atomically(folder / "env.log", describe_environment())
        # SpeechBrain copies the file that calls it, this one; the user's script is worth more.
        (folder / Path(__file__).name).unlink(missing_ok=True)
        script = Path(sys.argv[0])
        if script.is_file() and script.resolve().parent != folder.resolve():
            shutil.copy(script, folder)


def check_record(file: Path, overrides: Mapping[str, str], folder: Path) -> None:
    """Refuse what a record cannot do.

    Args:
        file: the record.
        overrides: flags that are given for its keys.
        folder: the output folder that it names.

    Raises:
        ConfigError: a flag, or a record that is not in the folder of its run; names the command.
    """
    source, recorded = _read_head(file)
    flags = [f"--{key}={_as_given(text)}" for key, text in {**recorded, **overrides}.items()]
    command = shlex.join(["python", sys.argv[0], source, *flags])
    if overrides:
        raise ConfigError(
            f"{file} is the record of a run: its references are resolved, so that "
            f"--{' --'.join(overrides)} would not reach all that depends on it. Give the recipe "
            f"and all flags: {command}"
        )
    if folder.resolve() != file.resolve().parent:
        raise ConfigError(
            f"{file} is the record of a run in {folder}, which is not where it lies. Start it "
            f"where that run was started, or give the recipe and its flags: {command}"
        )


def _read_head(record: Path) -> tuple[str, dict[str, str]]:
    """The recipe that a record was made from, and the flags that were given."""
    lines = record.read_text(encoding="utf-8").splitlines()[:3]
    flags: dict[str, str] = {}
    if lines[-1].startswith(_FLAGS):
        flags = json.loads(lines[-1].removeprefix(_FLAGS))
    return lines[1].removeprefix("# "), flags


def _as_given(value: str) -> str:
    """A value as the command line had it, before it was quoted for YAML."""
    return str(json.loads(value)) if value.startswith('"') else value
