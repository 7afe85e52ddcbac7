"""The command line of a recipe: what SpeechBrain's parser would misread is refused first."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import speechbrain as sb
from speechbrain.utils.run_opts import RunOptions

from summarymixing_modules.errors import InputError, did_you_mean

RUN_OPTIONS: dict[str, Any] = RunOptions().as_dict()  # name: default
FLAGS = frozenset(name for name, default in RUN_OPTIONS.items() if default is False)
LISTS = frozenset({"jit_module_keys", "compile_module_keys"})  # take any number of values
RESUME_WITH_CHANGES = "resume_with_changes"  # go on with a run although its settings differ


class ConfigError(InputError):
    """The command line or the YAML file asks for something that cannot be, and how to mend it."""


def overrides_in(flags: Mapping[str, str]) -> dict[str, str]:
    """The flags that are no run options."""
    return {name: value for name, value in flags.items() if name not in RUN_OPTIONS}


def read_flags(arguments: Sequence[str], yaml_keys: Iterable[str]) -> dict[str, str]:
    """Check and read the options after the YAML file.

    SpeechBrain's parser would take the last of a repeated option, read an abbreviation without
    recording it, turn ``=`` inside a value into a space and a missing value into null.

    Args:
        arguments: the command line after the YAML file.
        yaml_keys: the top-level keys of the YAML file.

    Returns:
        Key or run option to value, as text; of a list of values, with spaces between them.

    Raises:
        ConfigError: an option is unknown, repeated, abbreviated or lacks its value, or there is a
            value without option. Names the option and what is near.
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
                value = f"{value} {rest.pop(0)}".strip()
        elif name not in FLAGS and not value:
            if equals or not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{name} has no value; write --{name}=VALUE.")
            value = rest.pop(0)
        seen[name] = value
    return seen


def take_switch(arguments: Sequence[str], name: str) -> tuple[list[str], bool]:
    """Take a flag that is True or False, and no key of a YAML file, off a command line.

    Args:
        arguments: the command line.
        name: of the flag.

    Returns:
        The other arguments, and the flag's value: False if it is not given, True without a value.

    Raises:
        ConfigError: it is given twice, or is neither True nor False.
    """
    rest, values = list(arguments), []
    for index, argument in reversed(list(enumerate(arguments))):
        flag, equals, value = argument.partition("=")
        if flag != f"--{name}":
            continue
        del rest[index]
        if not equals and rest[index : index + 1] and not rest[index].startswith("--"):
            value = rest.pop(index)
        values.append(value or "True")
    if len(values) > 1:
        raise ConfigError(f"--{name} is given twice; keep one of them.")
    if values and values[0].lower() not in ("true", "false"):
        raise ConfigError(f"--{name}={values[0]} must be True or False.")
    return rest, [value.lower() for value in values] == ["true"]


def as_yaml(overrides: Mapping[str, str]) -> str:
    """The flags for keys of a YAML file, as YAML.

    A value is read as YAML, but a ``#`` in a text begins no comment there.
    """
    lines = []
    for key, value in overrides.items():
        is_text = not value.startswith(("'", '"', "[", "{"))
        hidden = is_text and re.search(r"(^|\s)#", value)
        lines.append(f"{key}: {json.dumps(value, ensure_ascii=False) if hidden else value}")
    return "\n".join(lines)


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
        hint = did_you_mean(name, [*yaml_keys, *RUN_OPTIONS, RESUME_WITH_CHANGES], prefix="--")
        raise ConfigError(f"--{name} is neither a key of the YAML file nor a run option.{hint}")


def run_options(file: str, flags: Mapping[str, str]) -> RunOptions:
    """SpeechBrain's run options.

    Without a terminal there are no progress bars: lines that cannot be written again would be
    thousands in a log, which has its own (``log_interval``).

    Args:
        file: the YAML file.
        flags: of the command line, checked by their kinds.
    """
    arguments = [file]
    for name in RUN_OPTIONS:
        if name in FLAGS and _is_on(name, flags.get(name)):
            arguments.append(f"--{name}")
        elif name in LISTS and name in flags:
            arguments += [f"--{name}", *flags[name].split()]
        elif name in flags and name not in FLAGS and flags[name] != "null":
            arguments.append(f"--{name}={flags[name]}")
    _, options, _ = sb.parse_arguments(arguments)
    changes: dict[str, Any] = {}
    if (limit := flags.get("optimizer_step_limit")) is not None:  # which the parser leaves a text
        changes["optimizer_step_limit"] = None if limit == "null" else int(limit)
    if not sys.stderr.isatty():
        changes["noprogressbar"] = True
    given = {*options.overridden_args, *changes}
    return dataclasses.replace(options, **changes, overridden_args=given)


def _is_on(name: str, value: str | None) -> bool:
    """Whether a flag without value is given, which may have one for all that."""
    if value is None or value.lower() == "false":
        return False
    if value.lower() not in ("", "true"):
        raise ConfigError(f"--{name}={value}: --{name} takes no value; give it or leave it out.")
    return True


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
