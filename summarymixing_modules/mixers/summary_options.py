"""What SummaryMixing can be asked for: its modes, its statistics, and what does not go together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from summarymixing_modules.errors import InputError

logger = logging.getLogger(__name__)

FULL = "SummaryMixing"
LITE = "SummaryMixing-lite"
FAST = "SummaryMixing-fast"
EXPDECAY = "SummaryMixing-expdecay"
MODES = (FULL, LITE, FAST, EXPDECAY)

MEAN = "mean"
WEIGHTED = "weighted"
MEAN_STD = "mean_std"
STATISTICS = (MEAN, WEIGHTED, MEAN_STD)

#: Options of each form of the cell that has a name.
FORMS: dict[str, dict[str, Any]] = {
    **{mode: {"mode": mode} for mode in MODES},
    **{f"{FULL}-{kind}": {"summary_statistic": kind} for kind in (WEIGHTED, MEAN_STD)},
    f"{FULL}-window": {"summary_window": 9},
    f"{FULL}-windows": {"summary_window": [5, 31], "use_layernorm": False},
    f"{FAST}-window": {"mode": FAST, "summary_window": 9},
    f"{FULL}-no-f": {"local_proj": False},
    f"{FULL}-no-s": {"summary_proj": False},
    f"{FULL}-no-c": {"combiner": False},
}


def check_mode(mode: str, decay: float | None) -> None:
    """Refuses a mode that does not exist, and numbers that are wrong or not of that mode.

    Raises:
        InputError: naming the flag, its allowed values and the remedy.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}. Known: {', '.join(MODES)}.")
    if decay is not None and not 0 < decay <= 1:
        raise InputError(f"decay={decay} must be in (0, 1].")
    if decay is not None and mode != EXPDECAY:
        raise InputError(
            f"decay={decay} means nothing in mode={mode}, whose means do not decay: leave it out, "
            f"or choose mode={EXPDECAY}."
        )


def check_statistic(mode: str, statistic: str) -> None:
    """Refuses a statistic that does not exist, or that the mode has no use for.

    Raises:
        InputError: naming the flag, the mode and the remedy.
    """
    if statistic not in STATISTICS:
        raise InputError(
            f"unknown summary_statistic {statistic!r}. Known: {', '.join(STATISTICS)}."
        )
    if mode == EXPDECAY and statistic != MEAN:
        raise InputError(
            f"summary_statistic={statistic} cannot be had in mode={EXPDECAY}, whose weights are "
            f"decay^|t-i|: leave it at {MEAN}, or choose mode={FULL}."
        )
    if mode == LITE and statistic == MEAN_STD:
        raise InputError(
            f"summary_statistic={MEAN_STD} cannot be had in mode={LITE}: the summary is the output "
            f"there, and would be twice as wide. Choose {MEAN} or {WEIGHTED}, or mode={FULL}."
        )


def parts_of(mode: str, local_proj: bool, summary_proj: bool, combiner: bool) -> str:
    """Which of f, s and c a cell has, such as "fsc".

    Raises:
        InputError: a switch that the mode does not have, or neither f nor s is left.
    """
    given = {"local_proj": local_proj, "summary_proj": summary_proj, "combiner": combiner}
    off = [flag for flag, value in given.items() if not value]
    if off and mode in (LITE, EXPDECAY):
        raise InputError(
            f"{off[0]}=False cannot be had in mode={mode}: leave it True, or choose mode={FULL}."
        )
    if not (local_proj or summary_proj):
        raise InputError(
            "local_proj=False and summary_proj=False leave nothing of the cell: leave one of them "
            "True, or choose attention_type=cnnonly."
        )
    if mode == LITE:
        return "s"
    return "".join(part for part, there in zip("fsc", given.values(), strict=True) if there)


def check_absent(mode: str, parts: str, **options: object) -> None:
    """Refuses options of parts that the cell does not have.

    Args:
        mode: one of ``MODES``.
        parts: from ``parts_of``.
        **options: the activations, the statistic and the dropout that were asked for.

    Raises:
        InputError: naming the option, the mode and the remedy.
    """
    for option, value in options.items():
        part = {"local": "f", "summary": "s"}.get(option.split("_")[0], "c")
        if part not in parts and value not in (None, True, MEAN):
            raise InputError(
                f"{option}={value} means nothing in this cell (mode={mode}), which has no {part}: "
                "leave it out."
            )


def window_widths(mode: str, parts: str, windows: int | Sequence[int] | None) -> tuple[int, ...]:
    """The windows of a cell, in frames; none if None or an empty list is asked for.

    Args:
        mode: one of ``MODES``.
        parts: from ``parts_of``.
        windows: one width, or several.

    Raises:
        InputError: a width that is no window, or a cell that has no use for one.
    """
    widths = (windows,) if isinstance(windows, int) else tuple(windows or ())
    if widths and (mode == EXPDECAY or not {"s", "c"} <= set(parts)):
        raise InputError(
            f"summary_window={list(widths)} cannot be had in this cell (mode={mode}): means of s "
            "over windows go into c, beside a mean over everything. Leave it out, or choose "
            f"mode={FULL} or {FAST} with summary_proj=True and combiner=True."
        )
    for width in widths:
        if width < 3 or width % 2 == 0 or widths.count(width) > 1:
            raise InputError(
                f"summary_window={list(widths)} holds {width}: windows are counted in frames, are "
                "centred on one, and differ. Give odd numbers from 3, such as 9 or [9, 49]."
            )
    return widths


def heads_of(mode: str, nhead: int) -> int:
    """The heads that a cell has; the fast mode has one."""
    if mode == FAST and nhead != 1:
        say_unused(FAST, "nhead", nhead)
        return 1
    return nhead


def layer_sizes(
    name: str,
    hidden: Sequence[int] | None,
    out: int | None,
    present: bool,
    *,
    enc_dim: int,
    mode: str,
    nhead: int,
) -> list[int]:
    """Layer sizes of f or s; no features where the cell has none.

    Args:
        name: "local_proj" or "summary".
        hidden: sizes asked for; None = [enc_dim].
        out: output size asked for; None = ``enc_dim``.
        present: whether the cell has it.
        enc_dim: features D.
        mode: one of ``MODES``.
        nhead: heads.

    Raises:
        InputError: sizes that the heads do not divide.
    """
    if not present:
        say_unused(f"a cell without {name}", f"{name}_hid_dim", hidden)
        say_unused(f"a cell without {name}", f"{name}_out_dim", out)
        return [0]
    out = enc_dim if out is None else out
    if mode == FAST:
        say_unused(FAST, f"{name}_hid_dim", hidden)
        return [out]
    sizes = [*([enc_dim] if hidden is None else hidden), out]
    check_sizes(f"{name}_hid_dim", sizes, nhead)
    return sizes


def has_layernorm(mode: str, use_layernorm: bool | None) -> bool:
    """Whether a cell normalises f and the summary; None asks for what the mode has."""
    if mode in (FULL, EXPDECAY):
        return use_layernorm is not False
    if use_layernorm:
        say_unused(mode, "use_layernorm", True)
    return False


def check_sum(enc_dim: int, local_dim: int, summary_dim: int) -> None:
    """Refuses outputs of f and s that cannot be the output of a cell without c, as in lite.

    Raises:
        InputError: naming the flag.
    """
    for flag, size in (("local_proj_out_dim", local_dim), ("summary_out_dim", summary_dim)):
        if size not in (0, enc_dim):
            raise InputError(
                f"without c the output is f + the summary: {size} features ({flag}) must be "
                f"enc_dim={enc_dim}."
            )


def check_sizes(name: str, sizes: list[int], nhead: int) -> None:
    """Refuses layer sizes that the heads do not divide.

    Args:
        name: flag of the hidden sizes.
        sizes: hidden sizes and output size.
        nhead: heads.

    Raises:
        InputError: naming the size, the heads and the flag.
    """
    for size in sizes:
        if size < 1 or size % nhead:
            raise InputError(
                f"a layer of {size} features cannot have nhead={nhead}: what {name} holds and the "
                "output size must be positive multiples of it."
            )


def say_unused(mode: str, argument: str, value: object) -> None:
    """Warns once of an argument that the mode does not use."""
    if value not in (None, []):
        _log_once(f"{mode} has no use for {argument}={value}; it is not used.")


@functools.cache
def _log_once(message: str) -> None:
    logger.warning(message)
