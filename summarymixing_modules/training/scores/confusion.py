"""Which classes are taken for which: counts, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from summarymixing_modules.data.files import write_csv
from summarymixing_modules.pictures import picture

#: More classes make no readable picture.
MAX_PICTURE = 40
_MAX_NUMBERS = 16  # classes at which numbers fit into the cells


@dataclass(frozen=True)
class Confusion:
    """Counts of predictions.

    Attributes:
        references: true classes, a row each; those that training does not have come last.
        names: predicted classes, a column each.
        counts: (references, names).
    """

    references: list[str]
    names: list[str]
    counts: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> Confusion:
        """Count (reference, prediction) pairs.

        Args:
            names: the classes that can be predicted.
            pairs: one for each utterance.
        """
        pairs = list(pairs)
        rows = [*names, *sorted({reference for reference, _ in pairs} - set(names))]
        row_of = {name: index for index, name in enumerate(rows)}
        column_of = {name: index for index, name in enumerate(names)}
        counts = np.zeros((len(rows), len(names)), dtype=np.int64)
        for reference, prediction in pairs:
            counts[row_of[reference], column_of[prediction]] += 1
        return cls(rows, list(names), counts)

    def write_csv(self, path: Path) -> None:
        """Write the counts: a row for each true class, a column for each predicted one."""
        rows = zip(self.references, self.counts.tolist(), strict=True)
        head = ["true \\ predicted", *self.names]
        write_csv(path, [head, *([name, *counts] for name, counts in rows)])

    def write_png(self, path: Path, title: str) -> bool:
        """Draw the share of every true class that went to each predicted one.

        Returns:
            whether it was drawn: not for more than `MAX_PICTURE` classes.
        """
        if len(self.references) > MAX_PICTURE:
            return False
        totals = self.counts.sum(axis=1, keepdims=True)
        percent = 100 * self.counts / np.maximum(totals, 1)
        side = 3.5 + 0.32 * max(len(self.names), len(self.references))
        with picture(path, side + 1, side, dpi=110) as figure:
            axes = figure.subplots()
            # From dark to light: read alike with any colour vision, and in print.
            image = axes.imshow(percent, cmap="cividis", vmin=0, vmax=100)
            axes.set_xticks(range(len(self.names)), self.names, rotation=90)
            rows = zip(self.references, totals[:, 0].tolist(), strict=True)
            axes.set_yticks(range(len(self.references)), [f"{name} ({n})" for name, n in rows])
            axes.set(title=title, xlabel="predicted class", ylabel="true class (utterances)")
            if len(self.references) <= _MAX_NUMBERS:
                for (row, column), value in np.ndenumerate(percent):
                    colour = "black" if value > 60 else "white"
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
            figure.colorbar(image, ax=axes, label="share of the true class (%)")
        return True
