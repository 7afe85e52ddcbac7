"""The command line of a recipe: what SpeechBrain's parser would misread is refused first."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from speechbrain.utils.run_opts import RunOptions

from summarymixing_modules.errors import InputError

RUN_OPTIONS: dict[str, Any] = RunOptions().as_dict()  # name: default
FLAGS = frozenset(name for name, default in RUN_OPTIONS.items() if default is False)
LISTS = frozenset({"jit_module_keys", "compile_module_keys"})  # take any number of values


class ConfigError(InputError):
    """The command line or the YAML file asks for something that cannot be, and how to mend it."""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence with the nearest known names, or nothing."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(prefix + n for n in near)}?" if near else ""


def read_overrides(arguments: Sequence[str], yaml_keys: Iterable[str]) -> dict[str, str]:
    """Check the options after the YAML file; return those that override a key of it.

    SpeechBrain's parser would take the last of a repeated option, read an abbreviation without
    recording it, turn ``=`` inside a value into a space and a missing value into null.

    Args:
        arguments: the command line after the YAML file.
        yaml_keys: the top-level keys of the YAML file.

    Returns:
        Key to value, as text.

    Raises:
        ConfigError: an option is unknown, repeated, abbreviated, lacks its value or holds ``=`` in
            it, or there is a value without option. Names the option and what is near.
    """
    yaml_keys = list(yaml_keys)
    seen: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise ConfigError(f"What is '{token}' for? Options look like --key=value.")
        name, equals, value = token.removeprefix("--").partition("=")
        if name in seen:
            raise ConfigError(f"--{name} is given twice; keep one of them.")
        _check_name(name, yaml_keys)
        if name in LISTS:
            while rest and not rest[0].startswith("--"):
                rest.pop(0)
        elif name not in FLAGS and not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{name} has no value; write --{name}=VALUE.")
            value = rest.pop(0)
        if name not in RUN_OPTIONS and "=" in value:
            raise ConfigError(
                f"The value of --{name} holds a '=', which SpeechBrain would turn into a space. "
                "Write it into the YAML file instead."
            )
        seen[name] = value
    return {name: value for name, value in seen.items() if name not in RUN_OPTIONS}


def _check_name(name: str, yaml_keys: list[str]) -> None:
    """Refuse an option that is neither SpeechBrain's nor a key of the YAML file."""
    if name in RUN_OPTIONS:
        return
    longer = [option for option in RUN_OPTIONS if option.startswith(name)]
    if longer:
        raise ConfigError(
            f"SpeechBrain reads --{name} as short for --{longer[0]}; write the full name."
        )
    if name not in yaml_keys:
        hint = did_you_mean(name, [*yaml_keys, *RUN_OPTIONS], prefix="--")
        raise ConfigError(f"--{name} is neither a key of the YAML file nor a run option.{hint}")


def with_numbers(run_opts: RunOptions) -> RunOptions:
    """Make ``optimizer_step_limit`` a number: SpeechBrain's parser leaves it a text.

    Raises:
        ConfigError: it is no whole number.
    """
    limit = run_opts.optimizer_step_limit
    if limit is None:
        return run_opts
    try:
        return dataclasses.replace(run_opts, optimizer_step_limit=int(limit))
    except ValueError:
        raise ConfigError(f"--optimizer_step_limit must be a whole number, not {limit}.") from None


def refuse_foreign_mixer_options(
    overrides: Iterable[str], attention_type: str, options_by_mixer: Mapping[str, set[str]]
) -> None:
    """Refuse an override that only mixers other than the chosen one read.

    Args:
        overrides: the keys given on the command line, such as `Recipe.overrides`.
        attention_type: the chosen mixer.
        options_by_mixer: each mixer's own options.

    Raises:
        ConfigError: the mixer is unknown, or an option is not its own; names the option, the mixer
            and the mixers that have it.
    """
    if attention_type not in options_by_mixer:
        hint = did_you_mean(attention_type, options_by_mixer)
        mixers = ", ".join(sorted(options_by_mixer))
        raise ConfigError(f"There is no mixer {attention_type} but {mixers}.{hint}")
    for key in overrides:
        owners = sorted(mixer for mixer, options in options_by_mixer.items() if key in options)
        if owners and attention_type not in owners:
            raise ConfigError(
                f"--{key} means nothing to --attention_type={attention_type}: it is an option of "
                f"{', '.join(owners)}. Leave it out, or choose one of these."
            )
