"""The one place where the value of ``attention_type`` becomes a mixer.

A mixer of one's own needs one decorated builder and no change here::

    @register_mixer("mine", MyMixer.capabilities, source="my paper, eq. 3")
    def build_mine(size: MixerSize, *, width: int = 64) -> MyMixer:
        return MyMixer(size.d_model, width)

Keyword-only arguments of the builder are the mixer's options. A package that declares the entry
point group ``summarymixing_modules.mixers`` is imported when an unknown name is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from summarymixing_modules.errors import InputError, near_name
from summarymixing_modules.mixers.base import Capabilities, Mixer, UnsupportedByMixer

ENTRY_POINT_GROUP = "summarymixing_modules.mixers"


@dataclass(frozen=True)
class MixerSize:
    """What the host layer tells every mixer about itself.

    Attributes:
        d_model: features D.
        nhead: heads; a mixer without heads does not look at it.
        d_ffn: hidden size of the host's feed-forward layers.
        dropout: the host's dropout.
        activation: class of the host's activation.
        causal: frames see themselves and the past only.
    """

    d_model: int
    nhead: int = 8
    d_ffn: int = 2048
    dropout: float = 0.0
    activation: Callable[[], nn.Module] = nn.GELU
    causal: bool = False


@dataclass(frozen=True)
class MixerForm:
    """A mixer with some of its options, under a name: what tests, bench and listings go through.

    Attributes:
        name: that of the mixer, or one that says what is different.
        attention_type: the registered mixer.
        options: that make the form.
    """

    name: str
    attention_type: str
    options: Mapping[str, Any]

    def build(self, size: MixerSize) -> Mixer:
        """The mixer; see ``build_mixer``."""
        return build_mixer(self.attention_type, size, **self.options)

    @property
    def capabilities(self) -> Capabilities:
        """What this form can do."""
        with torch.device("meta"):
            return self.build(MixerSize(64, 4, 64)).capabilities


@dataclass(frozen=True)
class MixerSpec:
    """A registered mixer.

    Attributes:
        name: value of ``attention_type``.
        build: (size, **options) → mixer.
        capabilities: what it can do with its default options.
        options: names of its options.
        source: paper and section.
        forms: those that have a name.
    """

    name: str
    build: Callable[..., Mixer]
    capabilities: Capabilities
    options: tuple[str, ...]
    source: str
    forms: tuple[MixerForm, ...]


_SPECS: dict[str, MixerSpec] = {}


def register_mixer(
    name: str,
    capabilities: Capabilities,
    source: str,
    forms: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Mixer]], Callable[..., Mixer]]:
    """Decorator that makes a builder available as ``attention_type=name``.

    Args:
        name: value of ``attention_type``.
        capabilities: what the mixer can do with its default options.
        source: paper and section.
        forms: options of each form that has a name; None = one, with the default options.

    Raises:
        ValueError: the name is taken.
    """
    named = tuple(MixerForm(form, name, more) for form, more in (forms or {name: {}}).items())

    def decorate(build: Callable[..., Mixer]) -> Callable[..., Mixer]:
        if name in _SPECS:
            raise ValueError(f"attention_type {name!r} is registered already ({_SPECS[name]}).")
        parameters = inspect.signature(build).parameters.values()
        options = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        _SPECS[name] = MixerSpec(name, build, capabilities, options, source, named)
        return build

    return decorate


def unregister_mixer(name: str) -> None:
    """Forgets a mixer, so that a notebook can register its own a second time."""
    _SPECS.pop(name, None)


def mixer_names() -> list[str]:
    """Every known value of ``attention_type``, in the order of registration."""
    return list(_SPECS)


def mixer_forms(also_none: bool = False) -> list[MixerForm]:
    """Every form of every mixer, those of other installed packages included.

    Args:
        also_none: with the absence of a mixer, which keeps none of a mixer's promises
            (``Capabilities.mixes``).
    """
    _load_other_packages()
    specs = [spec for spec in _SPECS.values() if also_none or spec.capabilities.mixes]
    return [form for spec in specs for form in spec.forms]


def _load_other_packages() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        point.load()


def mixer_spec(name: str) -> MixerSpec:
    """The spec of a mixer.

    Raises:
        InputError: unknown name; the message lists the known ones.
    """
    if name not in _SPECS:
        _load_other_packages()
    if name not in _SPECS:
        raise InputError(
            f"unknown attention_type {name!r}{near_name(name, _SPECS)}. "
            f"Known: {', '.join(mixer_names())}."
        )
    return _SPECS[name]


def build_mixer(attention_type: str, size: MixerSize, **options: Any) -> Mixer:
    """Builds the mixer that a value of ``attention_type`` stands for.

    Args:
        attention_type: registered name.
        size: dimensions of the host layer.
        **options: options of that mixer.

    Raises:
        InputError: unknown name, or an option that this mixer does not have.
        UnsupportedByMixer: a causal host and a mixer that cannot be causal, or that its builder
            has not told so.
    """
    for option in options:
        check_option(attention_type, option)
    mixer = mixer_spec(attention_type).build(size, **options)
    if size.causal and not mixer.causal:
        mixer.require("causal", "causal=True")
        raise UnsupportedByMixer(
            f"the host is causal, and {attention_type} was built as a mixer that is not: its "
            "builder has to hand size.causal on."
        )
    return mixer


def check_option(attention_type: str, option: str) -> None:
    """Refuses an option that a mixer does not have.

    Raises:
        InputError: names the option, the mixer and its options.
    """
    known = mixer_spec(attention_type).options
    if option not in known:
        raise InputError(
            f"{attention_type} has no option {option!r}{near_name(option, known)}. "
            f"Its options: {', '.join(known) or 'none'}."
        )


def select_options(
    attention_type: str,
    options: Mapping[str, Mapping[str, Any]],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Picks the options of the chosen mixer out of a YAML table with one entry per mixer.

    Args:
        attention_type: the chosen mixer.
        options: mixer → options that are keys of the recipe.
        more: further options of the chosen mixer (the key ``mixer_options`` of recipes).

    Raises:
        InputError: an unknown mixer, an option that it does not have, or one that is a key.
    """
    for name in (attention_type, *options):
        mixer_spec(name)
    table = dict(options.get(attention_type, {}))
    for option in more or {}:
        if option in table:
            raise InputError(f"mixer_options holds {option!r}: give it as --{option}=VALUE.")
        check_option(attention_type, option)
    return {**table, **(more or {})}


def reference_options(
    form: str | None, options: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any]] | None:
    """The mixer that another one is matched to, and its options.

    Args:
        form: a mixer, or a named form of one, such as "SummaryMixing-lite"; None = no matching.
        options: the recipe's table, as in ``select_options``.

    Raises:
        InputError: there is no such form; the message lists the known ones.
    """
    if form is None:
        return None
    forms = {name: MixerForm(name, name, {}) for name in _SPECS}
    forms |= {known.name: known for known in mixer_forms(also_none=True)}
    if form not in forms:
        raise InputError(
            f"matched_to: there is no mixer {form!r}{near_name(form, forms)}. "
            f"Known: {', '.join(forms)}."
        )
    name, own = forms[form].attention_type, forms[form].options
    return name, {**options.get(name, {}), **own}


def options_by_mixer() -> dict[str, set[str]]:
    """The option names of every mixer."""
    return {name: set(spec.options) for name, spec in _SPECS.items()}
