"""The matched sizes of the pre-training study of arXiv 2409.02596.

A comparison is fair in parameters when a mixer that needs fewer of them gets a wider model. The
study's widths are in ``hparams/matched_sizes.yaml``; the others are solved for. From YAML::

    d_model: !apply:summarymixing_modules.models.sizes.matched_d_model
        attention_type: !ref <attention_type>
        size: base
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import mixer_spec
from summarymixing_modules.models.features.frontend import ConvFrontEnd2d
from summarymixing_modules.models.widths import (
    WIDTH_ERRORS,
    OpenWidthModel,
    check_known,
    count_parameters,
    solve_width,
    without_memory,
)
from summarymixing_modules.repository import REPOSITORY

TABLE = REPOSITORY / "hparams" / "matched_sizes.yaml"


@dataclass(frozen=True)
class PublishedSize:
    """A model of arXiv 2409.02596.

    Attributes:
        encoder_module: "conformer" or "branchformer".
        size: "base" or "large".
        attention_type: name of the mixer.
        nhead: heads.
        d_model: features D.
        millions: of parameters, as published; None = not published.
    """

    encoder_module: str
    size: str
    attention_type: str
    nhead: int
    d_model: int
    millions: float | None


def matched_d_model(
    attention_type: str,
    encoder_module: str = "conformer",
    size: str = "base",
    nhead: int | None = None,
    mixer_options: Mapping[str, Any] | None = None,
    matched: bool = True,
    multiple_of: int = 2,
    d_model: int | None = None,
) -> int:
    """The width of arXiv 2409.02596 for a mixer; solved for where the study has none.

    A published width holds for every setting that gives the mixer as many parameters as the
    study's. Otherwise the target is the number of parameters of the study's RelPosMHAXL.

    Args:
        attention_type: name of the mixer.
        encoder_module: "conformer" or "branchformer".
        size: "base" or "large".
        nhead: heads; None = the study's 8.
        mixer_options: options of the mixer that differ from the study's.
        matched: False returns the width of RelPosMHAXL, so that a recipe can have a switch.
        multiple_of: what else the width must be a multiple of; 8 suits half-precision kernels.
        d_model: a width that was chosen by hand, and is returned.

    Returns:
        the width.

    Raises:
        InputError: an unknown name, no width fits, or the table is missing.
    """
    mixer_spec(attention_type)
    if d_model is not None:
        return d_model
    published = _rows(encoder_module, size)
    reference = next(row for row in published if row.attention_type == _table()["reference"])
    if not matched:
        return reference.d_model
    wanted = study_model(attention_type, encoder_module, size, nhead, mixer_options)
    for row in published:
        if row.attention_type == attention_type and row.d_model % multiple_of == 0:
            if _has_size_of(wanted, row):
                return row.d_model
    target = _model_of(reference).parameters(reference.d_model)
    return solve_width(wanted, target, reference.d_model, multiple_of)


def study_model(
    attention_type: str,
    encoder_module: str = "conformer",
    size: str = "base",
    nhead: int | None = None,
    mixer_options: Mapping[str, Any] | None = None,
) -> OpenWidthModel:
    """The pre-training model of arXiv 2409.02596; arguments as in ``matched_d_model``."""
    table = _table()
    check_known("size", size, table["num_encoder_layers"])
    with without_memory():
        front_end = ConvFrontEnd2d(table["n_mels"], table["cnn_channels"])
    return OpenWidthModel(
        attention_type,
        {**table["mixer_options"].get(attention_type, {}), **(mixer_options or {})},
        front_end.output_size,
        table["output_neurons"],
        count_parameters(front_end),
        {
            "encoder_module": encoder_module,
            "num_encoder_layers": table["num_encoder_layers"][size],
            "nhead": table["nhead"] if nhead is None else nhead,
            **{name: table[name] for name in ("kernel_size", "d_ffn", "csgu_linear_units")},
        },
    )


def published_sizes() -> list[PublishedSize]:
    """Every model of ``hparams/matched_sizes.yaml``."""
    table = _table()
    return [
        PublishedSize(encoder_module, size, **{"nhead": table["nhead"], **row})
        for encoder_module, sizes in table["published"].items()
        for size, rows in sizes.items()
        for row in rows
    ]


def _has_size_of(wanted: OpenWidthModel, row: PublishedSize) -> bool:
    """Whether a model has, at a published width, the published model's number of parameters."""
    try:
        asked = wanted.parameters(row.d_model)
    except WIDTH_ERRORS:
        return False
    return asked == _model_of(row).parameters(row.d_model)


def _model_of(row: PublishedSize) -> OpenWidthModel:
    return study_model(row.attention_type, row.encoder_module, row.size, row.nhead)


def _rows(encoder_module: str, size: str) -> list[PublishedSize]:
    rows = published_sizes()
    check_known("encoder_module", encoder_module, {row.encoder_module for row in rows})
    rows = [row for row in rows if row.encoder_module == encoder_module]
    check_known("size", size, {row.size for row in rows})
    return [row for row in rows if row.size == size]


@functools.cache
def _table() -> dict[str, Any]:
    if not TABLE.is_file():
        raise InputError(
            f"the table of matched sizes, {TABLE}, is not beside the package: clone the "
            "repository and install it with `pip install -e .`"
        )
    return YAML(typ="safe").load(TABLE.read_text(encoding="utf-8"))
