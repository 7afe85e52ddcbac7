"""Another mixer in a built, trained model; every other weight stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from speechbrain.lobes.models.transformer.Transformer import TransformerEncoderLayer
from speechbrain.nnet.attention import RelPosEncXL
from torch import nn

from summarymixing_modules.encoders.base import MixerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Mixer, build_mixer, mixer_spec
from summarymixing_modules.models.conversion.host_adapter import HostAdapter
from summarymixing_modules.models.conversion.mixer_hosts import MixerHost, find_hosts
from summarymixing_modules.models.widths import count_parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwappedLayer:
    """One layer that got another mixer.

    Attributes:
        index: place among the layers of the model that host a mixer.
        layer: path of the layer in the model.
        mixer: path of its mixer.
        before: class of the mixer, or attention, that was there.
        after: class of the new one.
        parameters_before: of the mixer that was there.
        parameters_after: of the new one.
    """

    index: int
    layer: str
    mixer: str
    before: str
    after: str
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class SwapReport:
    """What ``swap_mixer`` did.

    Attributes:
        attention_type: name of the new mixer.
        options: its options.
        layers: the layers that got it.
        parameters_before: of the whole model.
        parameters_after: of the whole model.
        notes: what the new mixer may miss in its host; also logged as warnings.
    """

    attention_type: str
    options: dict[str, Any]
    layers: tuple[SwappedLayer, ...]
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...]

    def new_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters of the new mixers, for an optimiser that leaves all others alone."""
        return [p for one in self.layers for p in model.get_submodule(one.mixer).parameters()]

    def __str__(self) -> str:
        lines = [
            f"{one.mixer}: {one.before} ({one.parameters_before:,} parameters) -> "
            f"{one.after} ({one.parameters_after:,})"
            for one in self.layers
        ]
        total = f"the model: {self.parameters_before:,} parameters -> {self.parameters_after:,}"
        return "\n".join([*lines, total, *self.notes])


def swap_mixer(
    model: nn.Module,
    attention_type: str,
    layers: Iterable[int] | None = None,
    *,
    nhead: int | None = None,
    **options: Any,
) -> SwapReport:
    """Puts another mixer into the Conformer, Branchformer and Transformer layers of a model.

    The layers are those of this package or SpeechBrain's own, wherever they lie in the model.
    Sizes, dropout and activation are those of the layer; device, dtype, and train or eval mode are
    kept. New mixers are drawn afresh; no other weight changes, and nothing does when an error is
    raised. Make the optimiser afterwards: it would hold the parameters of the old mixers.

    What the model adds to its input stays as it was: absolute positions of a model built for
    regularMHA are still added, and relative ones of a SpeechBrain model built for RelPosMHAXL still
    computed, and dropped by the adapter (``HostAdapter``) where nothing reads them.

    Args:
        model: any module that holds such layers. It is changed.
        attention_type: name of the mixer.
        layers: which of the layers, counted over the whole model from 0 in the order of
            ``model.named_modules()``; None = all of them.
        nhead: heads of the new mixer; None = those of the mixer that was there.
        **options: options of the mixer.

    Returns:
        which layers, and how many parameters before and after.

    Raises:
        InputError: no layer to swap in, unknown mixer or option, an index that does not exist, a
            layer or an ``attention_type`` without a mixer, heads that cannot be told.
        UnsupportedByMixer: the layer is causal, and the mixer cannot be.

    Example:
        >>> from summarymixing_modules.encoders import ConformerEncoder
        >>> encoder = ConformerEncoder(2, 64, 128, 4, attention_type="RoPEMHA")
        >>> report = swap_mixer(encoder, "SummaryMixing", mode="SummaryMixing-fast")
        >>> report.layers[1].mixer, report.layers[1].parameters_after
        ('layers.1.mha_layer', 16576)
    """
    if not mixer_spec(attention_type).capabilities.mixes:
        raise InputError(
            f"attention_type={attention_type} is the absence of a mixer: there is nothing to put "
            "into a layer. Build the model with it instead."
        )
    hosts = _chosen(find_hosts(model), layers)
    mixers = [_build(host, attention_type, nhead, options) for host in hosts]
    before = count_parameters(model)
    swapped = tuple(_install(host, mixer) for host, mixer in zip(hosts, mixers, strict=True))
    changed = {id(host.layer) for host in hosts}
    for host in hosts:
        if host.encoder is not None:
            _tell_encoder(host.encoder, changed, attention_type)
    notes = _missing_positions(hosts, attention_type)
    for note in notes:
        logger.warning(note)
    return SwapReport(attention_type, options, swapped, before, count_parameters(model), notes)


def _chosen(hosts: list[MixerHost], layers: Iterable[int] | None) -> list[MixerHost]:
    if layers is None:
        return hosts
    wanted = sorted(set(layers))
    if not wanted or not set(wanted) <= set(range(len(hosts))):
        raise InputError(
            f"layers={wanted} must name layers from 0 to {len(hosts) - 1}: {len(hosts)} of this "
            "model host a mixer. None takes all of them."
        )
    return [hosts[index] for index in wanted]


def _build(
    host: MixerHost, attention_type: str, nhead: int | None, options: dict[str, Any]
) -> Mixer:
    """The new mixer of a layer, in its size, place, dtype and mode."""
    mixer = build_mixer(attention_type, host.size(nhead), **options)
    anchor = next(host.layer.parameters())
    return mixer.to(anchor.device, anchor.dtype).train(host.layer.training)


def _install(host: MixerHost, mixer: Mixer) -> SwappedLayer:
    """Layers of this package call mixers directly; SpeechBrain's own, as attention."""
    before, inner = host.hosted, host.mixer
    direct = isinstance(before, Mixer)
    hosted = mixer if direct else HostAdapter(mixer).train(mixer.training)
    setattr(host.layer, host.slot, hosted)
    return SwappedLayer(
        index=host.index,
        layer=host.path,
        mixer=host.mixer_path,
        before=type(inner).__name__,
        after=type(mixer).__name__,
        parameters_before=count_parameters(inner),
        parameters_after=count_parameters(mixer),
    )


def _tell_encoder(encoder: nn.Module, changed: set[int], attention_type: str) -> None:
    """Renames the mixer of an encoder, and has it make the positions that its layers now read."""
    layers: Any = encoder.layers
    everywhere = all(id(layer) in changed for layer in layers)
    if isinstance(encoder, MixerEncoder):
        _set_positions(encoder)
        if everywhere:
            encoder.attention_type = attention_type
        return
    relative = mixer_spec(attention_type).capabilities.positions == "relative"
    # SpeechBrain's encoders insist on pos_embs for as long as they are called RelPosMHAXL.
    if everywhere and not relative and hasattr(encoder, "attention_type"):
        encoder.attention_type = attention_type  # type: ignore[assignment]


def _set_positions(encoder: MixerEncoder) -> None:
    """Relative embeddings are made by the encoder where all layers read them, else by the mixers
    that do: the others refuse them."""
    kinds = {mixer.capabilities.positions for mixer in encoder.mixers}
    encoder.positions = kinds.pop() if len(kinds) == 1 else "none"
    if encoder.positions != "relative":
        encoder._modules.pop("relative_positions", None)
    elif not hasattr(encoder, "relative_positions"):
        d_model = encoder.norm.norm.normalized_shape[0]
        anchor = next(encoder.parameters())
        encoder.relative_positions = RelPosEncXL(d_model).to(anchor.device, anchor.dtype)


def _missing_positions(hosts: list[MixerHost], attention_type: str) -> tuple[str, ...]:
    """A note where frames can no longer be told apart by their place."""
    kind = mixer_spec(attention_type).capabilities.positions
    blind = [
        host
        for host in hosts
        if not host.adds_positions
        and (kind == "absolute" or (kind == "none" and _is_transformer(host)))
    ]
    if not blind:
        return ()
    return (
        f"in {blind[0].name}, {attention_type} may not know the order of frames: it takes it from "
        "positions in the input of the encoder or from convolutions around it, and neither was "
        "found. Set absolute_positions = True on a model of summarymixing_modules.models, or add "
        "positions to the input.",
    )


def _is_transformer(host: MixerHost) -> bool:
    """The layer has no convolution."""
    return isinstance(host.layer, TransformerEncoderLayer)
