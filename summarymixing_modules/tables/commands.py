"""A run as a command line, and the fingerprint by which it is known again."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from summarymixing_modules.tables.flags import NEUTRAL, OUTPUT_FOLDER, as_arguments, recipe_of
from summarymixing_modules.tables.plan import Run
from summarymixing_modules.tables.read import RECIPES
from summarymixing_modules.tables.schema import PLACEHOLDER, Stage, TableError
from summarymixing_modules.training.recipe.corpus_keys import with_corpus
from summarymixing_modules.training.recipe.options import ConfigError, read_flags
from summarymixing_modules.training.recipe.yaml_checks import train_script

LOCAL, TORCHRUN, SLURM = "local", "torchrun", "slurm"
CHECKPOINT_MINUTES = 15  # what is lost at most when a run is killed
_ACCUMULATION = "grad_accumulation_factor"
_TRUST = "trust_run"
_TRUSTED = ("encoder", "init_from")  # flags of what `trust_run` is about


@dataclass(frozen=True)
class Launch:
    """How commands are started.

    Attributes:
        launcher: ``local``, ``torchrun`` or ``slurm``.
        gpus: processes on a machine.
        nodes: machines.
        folders: corpus to folder.
        extra: flags of the command line; they win over those of the table. ``stage:key`` is for the
            stages of that name alone.
        weights: model among the folders to the hash of its weights.
        forget_jobs: take jobs that were submitted for ended, without asking slurm.
    """

    launcher: str
    gpus: int = 1
    nodes: int = 1
    folders: Mapping[str, Path] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    forget_jobs: bool = False

    @property
    def processes(self) -> int:
        """Processes in all."""
        return self.gpus * self.nodes

    def of(self, stage: Stage) -> Launch:
        """How a stage is started: one that is for one process is never given more."""
        if stage.recipe is not None and stage.processes != 1:
            return self
        launcher = LOCAL if self.launcher == TORCHRUN else self.launcher
        return replace(self, launcher=launcher, gpus=1, nodes=1)

    def extra_of(self, stage: Stage) -> dict[str, Any]:
        """The flags of the command line that are for a stage."""
        found = {}
        for key, value in self.extra.items():
            name, colon, inner = key.rpartition(":")
            if stage.recipe is not None and (not colon or name == stage.name):
                found[inner] = value
        return found


def stage_flags(stage: Stage, launch: Launch) -> dict[str, Any]:
    """A stage's flags with those of the command line and the accumulation that keeps its steps.

    Raises:
        TableError: the recipe has no such flag, or the batches cannot be accumulated evenly.
    """
    launch, extra = launch.of(stage), launch.extra_of(stage)
    flags = {**stage.flags, **extra}
    if stage.recipe is None:
        return flags
    try:
        given = as_arguments(flags)
        keys = with_corpus(recipe_of(stage.recipe), given).tree
        read_flags(given, keys)
    except ConfigError as error:
        raise TableError(f"{_short(stage.recipe)}: {error}") from None
    if stage.processes in (None, launch.processes) or _ACCUMULATION in extra:
        return flags
    batches = int({**keys, **flags}[_ACCUMULATION]) * (stage.processes or 1)
    if batches % launch.processes:
        raise TableError(
            f"a step of {_short(stage.recipe)} is {batches} batches in this table, which "
            f"{launch.processes} processes cannot share evenly: start a number of processes that "
            f"divides {batches}, or decide yourself: -- --{_ACCUMULATION}=N"
        )
    return {**flags, _ACCUMULATION: batches // launch.processes}


def command(run: Run, launch: Launch) -> list[str]:
    """The command of a run, without what slurm puts around it."""
    stage = run.stage
    if stage.recipe is None:
        arguments = [_resolve(text, run, launch) for text in stage.bench]
        bench = ["-m", "summarymixing_modules.cli", "bench", *arguments]
        return [sys.executable, *bench, "--output", str(run.folder)]
    given = stage_flags(stage, launch)
    flags = {key: _resolve(value, run, launch) for key, value in given.items()}
    if _starts_from_a_stage(run, given):
        flags.setdefault(_TRUST, True)
    if "ckpt_interval_steps" not in flags:
        flags.setdefault("ckpt_interval_minutes", CHECKPOINT_MINUTES)
    flags = {OUTPUT_FOLDER: str(run.folder), **flags}
    script = [str(train_script(stage.recipe)), str(stage.recipe)]
    return [*starter(launch.of(stage)), *script, *as_arguments(flags)]


def _starts_from_a_stage(run: Run, flags: Mapping[str, Any]) -> bool:
    """Whether a run loads another one of this table, which is as much one's own as itself."""
    values = [value for key in _TRUSTED if isinstance(value := flags.get(key), str)]
    return any(name in run.needs for value in values for name in PLACEHOLDER.findall(value))


def starter(launch: Launch) -> list[str]:
    """What starts a train.py; for slurm, `slurm.job_script` puts the rendezvous behind it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if launch.launcher == LOCAL or (launch.launcher == SLURM and launch.processes == 1):
        return [sys.executable]
    if launch.launcher == TORCHRUN:
        return [*torchrun, "--standalone", f"--nproc_per_node={launch.gpus}"]
    return torchrun


def fingerprint(run: Run, launch: Launch) -> dict[str, Any]:
    """What decides a run's result, without folders of data, machines and flags that do not.

    Where the table says how many processes its batches are meant for, any number of them gives the
    same steps and so the same fingerprint.
    """
    stage = run.stage
    extra = launch.extra_of(stage)
    flags = {**stage.flags, **extra}
    steps_kept = stage.processes is not None and _ACCUMULATION not in extra
    measured = stage.recipe is None
    models = {name: launch.weights[name] for name in stage.placeholders if name in launch.weights}
    return {
        "recipe": None if stage.recipe is None else _short(stage.recipe),
        "bench": list(stage.bench),
        "flags": dict(_deciding(flags)),
        "processes": None if steps_kept or measured else launch.processes,
        "needs": {name: _digest(fingerprint(needed, launch)) for name, needed in run.needs.items()},
        **({"weights": models} if models else {}),
    }


def _deciding(flags: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The flags that decide a result as texts, sorted."""
    texts = (argument.removeprefix("--").partition("=") for argument in as_arguments(flags))
    return sorted((key, value) for key, _, value in texts if key not in NEUTRAL)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _short(recipe: Path) -> str:
    """A recipe's path within recipes/; of a recipe elsewhere, its last parts."""
    if recipe.is_relative_to(RECIPES):
        return recipe.relative_to(RECIPES).as_posix()
    return Path(*recipe.parts[-3:]).as_posix()


def _resolve(value: Any, run: Run, launch: Launch) -> Any:
    """A flag's value with ``{name}`` replaced by the folder of a corpus or of another run."""
    if isinstance(value, list):
        return [_resolve(item, run, launch) for item in value]
    if isinstance(value, Mapping):
        return {key: _resolve(item, run, launch) for key, item in value.items()}
    if not isinstance(value, str):
        return value

    def folder(name: str) -> str:
        if name in run.needs:
            return str(run.needs[name].folder)
        if name in launch.folders:
            return str(launch.folders[name])
        raise TableError(f"{run.label}: {{{name}}} in a flag is no stage and no corpus.")

    return PLACEHOLDER.sub(lambda found: folder(found[1]), value)
