"""What SummaryMixing can be asked for: its modes, its statistics, and what does not go together."""

from __future__ import annotations

import functools
import logging

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


def check_mode(mode: str, decay: float | None, global_dropout: float | None) -> None:
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
    if global_dropout and mode == LITE:
        raise InputError(
            f"global_dropout={global_dropout} means nothing in mode={LITE}, which has no combiner: "
            f"leave it out, or choose mode={FULL}."
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


def check_parts(mode: str, local_activation: bool, combiner_activation: bool) -> None:
    """Refuses a switch for a part that the mode does not have.

    Raises:
        InputError: naming the flag, the mode and the remedy.
    """
    if mode != LITE:
        return
    for flag, value, part in (
        ("local_activation", local_activation, "f"),
        ("combiner_activation", combiner_activation, "c"),
    ):
        if not value:
            raise InputError(
                f"{flag}=False means nothing in mode={LITE}, which has no {part}: leave it True "
                "(the activation of s is summary_activation)."
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
