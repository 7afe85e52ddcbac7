"""What a Brain counts over an evaluation: the interface."""

from __future__ import annotations

from pathlib import Path


class Score:
    """Counts over one evaluation; the Brain makes it anew for each.

    A subclass has an ``append`` of its own, for a batch.
    """

    def summarise(self) -> dict[str, float]:
        """What was counted, by name; error rates in percent."""
        raise NotImplementedError

    def write(self, name: str, folder: Path, single: bool) -> None:
        """Write what was found in a test set; called on the main process. Nothing by default.

        Args:
            name: of the set.
            folder: where to.
            single: it is the only one.
        """
