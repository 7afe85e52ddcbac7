"""What a Brain counts over an evaluation: the interface."""

from __future__ import annotations

from pathlib import Path

Interval = tuple[float, float]  # low and high


class Score:
    """Counts over one evaluation; the Brain makes it anew for each.

    A subclass has an ``append`` of its own, for a batch.
    """

    def summarise(self) -> dict[str, float]:
        """What was counted, by name; error rates in percent."""
        raise NotImplementedError

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of what was counted, where there are some; called after a test."""
        return {}

    def write(self, name: str, folder: Path, single: bool) -> None:
        """Write what was found in a test set; called on the main process. Nothing by default.

        Args:
            name: of the set.
            folder: where to.
            single: it is the only one.
        """
