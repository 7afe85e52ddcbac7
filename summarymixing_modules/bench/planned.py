"""A recipe read for planning: its settings, and its model without memory. Nothing is launched."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from torch import nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Mixer
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.widths import count_parameters, without_memory
from summarymixing_modules.training.recipe.consistency import check_together, values_of
from summarymixing_modules.training.recipe.corpus_keys import corpus_options, with_corpus
from summarymixing_modules.training.recipe.options import (
    RUN_OPTIONS,
    as_yaml,
    overrides_in,
    read_flags,
    run_options,
)
from summarymixing_modules.training.recipe.reads import keys_read
from summarymixing_modules.training.recipe.values import check_values, checked_flags
from summarymixing_modules.training.recipe.yaml_checks import (
    check_yaml,
    in_use,
    read_recipe,
    train_script,
)
from summarymixing_modules.training.recipe.yaml_objects import check_objects

NOT_GIVEN = "not-given"  # the value of placeholders that planning does not look at
AUGMENTATION = ("augmentation", "wav_augment", "fea_augment")  # cannot be built without memory


@dataclass(frozen=True)
class PlannedRecipe:
    """What the YAML file and the flags say.

    Attributes:
        file: the YAML file.
        hparams: its objects; modules are on ``device``.
        options: SpeechBrain's run options that were given or differ from the YAML file's keys.
        missing: placeholders without a value.
        device: "meta", or "cpu" for what cannot be built without memory.
    """

    file: Path
    hparams: Mapping[str, Any]
    options: Mapping[str, Any]
    missing: tuple[str, ...]
    device: str

    def setting(self, key: str, default: Any = None) -> Any:
        """A run option that was given, else a key of the YAML file, else the run option's default.

        None counts as not given.
        """
        for value in (self.options.get(key), self.hparams.get(key), RUN_OPTIONS.get(key)):
            if value is not None:
                return value
        return default

    @property
    def on_text(self) -> bool:
        """The model reads tokens and no audio."""
        return bool(self.modules) and self.hparams.get("compute_features") is None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What is trained or run; empty where train.py makes it."""
        found = self.hparams.get("modules") or {}
        return {name: module for name, module in found.items() if isinstance(module, nn.Module)}


def read_planned(file: Path, flags: Sequence[str], real: bool = False) -> PlannedRecipe:
    """Reads a recipe; placeholders need no value, and nothing is left on disk.

    Args:
        file: the YAML file.
        flags: as after the YAML file on train.py's command line.
        real: build the model with memory, to run it.

    Raises:
        InputError: what train.py would refuse, too, or an object that cannot be built.
    """
    known = known_keys(file)
    source = with_corpus(read_recipe(file), flags)
    given = checked_flags(read_flags(flags, source.tree), source)
    overrides = overrides_in(given)
    missing = source.missing(overrides)
    check_objects(source)
    if known is not None:
        own = corpus_options(source, overrides)
        source = in_use(source, overrides, {*known, *own, *RUN_OPTIONS})
        check_yaml(source, {*overrides, *missing}, {*known, *own, *RUN_OPTIONS})
    run_opts = run_options(str(file), given)
    options = {name: run_opts[name] for name in run_opts.overridden_args}
    with tempfile.TemporaryDirectory() as scratch:
        changes = dict.fromkeys(missing, NOT_GIVEN)
        changes |= {key: "null" for key in AUGMENTATION if key in source.tree}
        changes |= overrides
        changes["output_folder"] = scratch  # loggers and checkpointers make folders
        text = resolve_references(source.text(), as_yaml(changes)).getvalue()
        tree = YAML().load(text)
        check_values(tree, source, changes)
        check_together(values_of(tree, options), overrides)
        hparams, device = _build(file, text, real)
    return PlannedRecipe(file, hparams, options, missing, device)


def known_keys(file: Path) -> Collection[str] | None:
    """The keys that the recipe's train.py reads by name; None where there is no train.py."""
    script = train_script(file)
    return keys_read(script) if script.is_file() else None


def parameters_by_part(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Number of parameters of each part of a recipe's modules, and of the encoder's mixers."""
    parts: dict[str, int] = {}
    for name, module in modules.items():
        for part, count in _parts(name, module).items():
            parts[part] = parts.get(part, 0) + count
    return {part: count for part, count in parts.items() if count}


def _parts(name: str, module: nn.Module) -> dict[str, int]:
    if not isinstance(module, AcousticEncoder):
        children = dict(module.named_children())
        rest = count_parameters(module) - sum(map(count_parameters, children.values()))
        found = {f"{name}.{child}": count_parameters(part) for child, part in children.items()}
        return {**found, name: rest}
    transformer = module.transformer
    decoder = [getattr(transformer, part, None) for part in ("custom_tgt_module", "decoder")]
    mixers = [part for part in transformer.encoder.modules() if isinstance(part, Mixer)]
    known = {
        "front end": count_parameters(module.frontend),
        "input projection": count_parameters(transformer.custom_src_module),
        "encoder": count_parameters(transformer.encoder),
        "  of it mixers": sum(map(count_parameters, mixers)),
        "decoder": sum(count_parameters(part) for part in decoder if part is not None),
    }
    heads = {
        f"head {child}": count_parameters(part)
        for child, part in module.named_children()
        if part is not module.frontend and part is not transformer
    }
    counted = sum(known.values()) - known["  of it mixers"] + sum(heads.values())
    return {**known, **heads, "other": count_parameters(module) - counted}


def _build(file: Path, text: str, real: bool) -> tuple[dict[str, Any], str]:
    """The objects of a resolved YAML file, on the meta device where that can be."""
    try:
        if not real:
            # Where something in it wants values, it gets memory.
            with suppress(NotImplementedError, RuntimeError), without_memory():
                return load_hyperpyyaml(text), "meta"
        return load_hyperpyyaml(text), "cpu"
    except InputError:
        raise
    except (OSError, TypeError, KeyError, AttributeError, ValueError, AssertionError) as error:
        raise InputError(f"{file} cannot be built: {error}") from error
