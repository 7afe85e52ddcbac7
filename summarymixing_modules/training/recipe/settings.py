"""What a run is trained with: kept with its checkpoints, and compared when it goes on.

A checkpoint is loaded together with the schedule and the optimizer's rates that it was saved with.
Going on with another rate, corpus or batch size would give a model that neither settings describe:
it is refused, unless ``--resume_with_changes=True`` says that it is meant.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.run_opts import RunOptions

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.recipe.options import RESUME_WITH_CHANGES
from summarymixing_modules.training.recipe.yaml_checks import tag_of
from summarymixing_modules.training.run.checkpoints import AtomicCheckpointer
from summarymixing_modules.training.run.resume import world_size

SETTINGS = "settings"  # the recoverable's name
#: Keys of YAML files that say where, how fast and how a run works, and what comes after training.
FREE_KEYS = frozenset(
    {
        "activation_checkpointing",
        "avg_checkpoints",
        "clips_folder",
        "curve_interval",
        "data_folder",  # it may have moved, and so may tables: see `RunSettings.data`
        "encoder",  # likewise; recipes compare the weights
        "find_unused_parameters",
        "lm_folder",
        "lm_temperature",
        "lm_weight",
        "log_interval",
        "matrix_chunk_sizes",
        "matrix_left_contexts",
        "max_bad_audio",
        "num_workers",
        "official_test_folder",
        "optimizer_step_limit",
        "output_folder",
        "prep_workers",
        "save_folder",
        "shards",  # likewise
        "skip_prep",
        "streaming_matrix",
        "train_manifest",
        "trials_file",
        "trust_run",
        "valid_manifest",
    }
)
_TEST = "test_"  # keys that begin so are about the evaluation after the training
#: SpeechBrain's run options that decide what is trained.
_OPTIONS = ("max_grad_norm", "precision", "remove_vector_weight_decay")
_FACTOR = "grad_accumulation_factor"
_BATCHES = "batches in a step"
_SHOWN = 12  # differences in a message
_ABSENT = "not there"


@dataclass(frozen=True)
class Change:
    """A setting that differs from the checkpoint's: a key, or ``key[part]`` of a block."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {_as_text(self.was)}, now {_as_text(self.now)}"


@register_checkpoint_hooks
@dataclass
class RunSettings:
    """The settings of a run, as a recoverable; see `of_recipe`.

    Attributes:
        values: key → plain value, and ``key[part]`` → value of what is inside a block.
        free: keys that may differ when the run goes on.
        derived: keys whose values follow from those of others.
        values_with: the values, if these keys had these values.
        meant: changes are meant.
        data: tells the training data from others, once they are known.
        changes: what differs from the checkpoint that was loaded.
    """

    values: dict[str, Any]
    free: frozenset[str]
    derived: frozenset[str]
    values_with: Callable[[Mapping[str, Any]], dict[str, Any]]
    meant: bool = False
    data: str | None = None
    changes: list[Change] = field(default_factory=list)

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write values and data as JSON."""
        content = {"values": self.values, "data": self.data}
        Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool = True) -> None:
        """Note what differs.

        Raises:
            InputError: the training data do, and that is not meant. (All else has been refused
                before anything was built.)
        """
        del end_of_epoch
        was = json.loads(Path(path).read_text(encoding="utf-8"))["data"]
        self.changes = self.compare(Path(path))
        if was is None or self.data is None or was == self.data:
            return
        if not self.meant:
            raise InputError(
                f"{Path(path).parent} was trained on other data than those that --data_folder has "
                "now, or in another order. Give the corpus as it was, or another --output_folder, "
                f"or, if that is meant, --{RESUME_WITH_CHANGES}=True."
            )
        self.changes.append(Change("training data", was[:12], self.data[:12]))

    def compare(self, stored: Path) -> list[Change]:
        """What decides the result, and differs from the settings that `save` wrote.

        What follows from a difference that is listed, or that decides nothing, is not listed.
        """
        was: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))["values"]
        own = [k for k in _different(was, self.values) if not _part(k) and k not in self.derived]
        # With these as they were, whatever still differs has been edited in the file.
        again = self.values_with({k: was[k] for k in own if k in was and k in self.values})
        changed = [k for k in own if self._decides(k)]
        edited = [k for k in _different(was, again) if self._decides(k) and _top(k) not in own]
        return [
            Change(k, was.get(k, _ABSENT), values.get(k, _ABSENT))
            for keys, values in ((changed, self.values), (edited, again))
            for k in keys
        ]

    def _decides(self, name: str) -> bool:
        key = _top(name)
        return key not in self.free and not key.startswith(_TEST)


def of_recipe(
    tree: Mapping[str, Any],
    run_opts: RunOptions,
    free: Collection[str],
    derived: Collection[str],
    tree_with: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    meant: bool = False,
) -> RunSettings:
    """The settings of a recipe.

    Args:
        tree: its YAML file, all references resolved.
        run_opts: SpeechBrain's run options.
        free: keys that may differ besides the `FREE_KEYS`.
        derived: keys whose values refer to others.
        tree_with: the tree, if some keys had other values.
        meant: changes are meant.
    """

    def values_with(changes: Mapping[str, Any]) -> dict[str, Any]:
        values = _flat(tree_with({k: v for k, v in changes.items() if k in tree}))
        options = {name: _effective(name, run_opts, values) for name in (*_OPTIONS, _FACTOR)}
        values.pop(_FACTOR, None)
        batches = int(options.pop(_FACTOR)) * world_size()
        # Through JSON, as they are stored: tuples are lists there.
        return json.loads(json.dumps({**values, **options, _BATCHES: batches, **changes}))

    free_keys = FREE_KEYS | frozenset(free)
    return RunSettings(values_with({}), free_keys, frozenset(derived), values_with, meant)


def refuse_changes(settings: RunSettings, checkpointer: AtomicCheckpointer) -> None:
    """Refuse to go on from a checkpoint of other settings, unless that is meant.

    Args:
        settings: of this start.
        checkpointer: of the run.

    Raises:
        InputError: lists what differs, and what to do.
    """
    newest = checkpointer.find_checkpoint()
    if settings.meant or newest is None or SETTINGS not in newest.paramfiles:
        return
    checkpointer.verify(newest, SETTINGS)
    changes = settings.compare(newest.paramfiles[SETTINGS])
    if not changes:
        return
    more = f"\n  ... and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    listed = "".join(f"\n  {change}" for change in changes[:_SHOWN])
    raise InputError(
        f"{newest.path.parent} holds checkpoints of a training with other settings:{listed}{more}\n"
        f"{_give_back(changes)}or another --output_folder to start anew. If the changes are meant, "
        f"add --{RESUME_WITH_CHANGES}=True: weights and optimizer go on, with the learning rate "
        "that the new settings have at this step."
    )


def refuse_fewer(what: str, wanted: int | None, done: int) -> None:
    """Refuse to end a training before the point that it has reached.

    Args:
        what: is counted.
        wanted: when to end; None for no limit.
        done: by now.

    Raises:
        InputError: more were done.
    """
    if wanted is not None and done > wanted:
        raise InputError(
            f"This run has done {done} {what}, and should end after {wanted}: give at least "
            f"{done}, --test_only to evaluate it as it is, or another --output_folder."
        )


def describe(changes: Collection[Change]) -> list[dict[str, Any]]:
    """Changes for result.json."""
    return [asdict(change) for change in changes]


def _give_back(changes: Collection[Change]) -> str:
    """The flags that undo changes, as the start of a sentence."""
    flags = [
        f"--{change.name}={_as_text(change.was)}"
        for change in changes
        if not _part(change.name) and change.was != _ABSENT and change.name != _BATCHES
    ]
    if 0 < len(flags) <= _SHOWN:
        return f"Give {shlex.join(flags)} to go on with it, "
    return "Give the settings it was made with to go on with it, "


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of a tree by its name; lists and mappings without tags are values on the top."""
    found: dict[str, Any] = {}
    named: dict[int, str] = {}  # nodes that several keys refer to
    for key, node in tree.items():
        if _is_plain(node):
            found[str(key)] = _plain(node)
        else:
            _add(str(key), node, found, named)
    return found


def _add(name: str, node: Any, found: dict[str, Any], named: dict[int, str]) -> None:
    """Add what is inside a block."""
    tag = tag_of(node)
    if isinstance(node, Mapping | list):
        first = named.setdefault(id(node), name)
        if first != name:
            found[name] = f"<{first}>"
            return
        if tag:
            found[name] = tag
        for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            _add(f"{name}[{key}]", child, found, named)
    else:
        found[name] = f"{tag} {getattr(node, 'value', '')}".strip() if tag else _plain(node)


def _is_plain(node: Any) -> bool:
    if tag_of(node):
        return False
    if isinstance(node, Mapping):
        return all(_is_plain(child) for child in node.values())
    if isinstance(node, list):
        return all(_is_plain(child) for child in node)
    return True


def _plain(node: Any) -> Any:
    """ruamel's numbers, texts and containers as Python's."""
    if isinstance(node, Mapping):
        return {str(key): _plain(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_plain(child) for child in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return None if node is None else str(node)


def _effective(name: str, run_opts: RunOptions, values: Mapping[str, Any]) -> Any:
    """A run option as SpeechBrain's Brain takes it: a flag wins over the YAML file."""
    given = name in run_opts.overridden_args
    return run_opts[name] if given else values.get(name, run_opts[name])


def _different(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names whose values differ."""
    return [name for name in {**was, **now} if was.get(name, _ABSENT) != now.get(name, _ABSENT)]


def _part(name: str) -> bool:
    """Whether a name is that of something inside a block."""
    return "[" in name


def _top(name: str) -> str:
    """The key of a name."""
    return name.partition("[")[0]


def _as_text(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None:
        return "null"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
