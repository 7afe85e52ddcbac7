"""Pictures of matplotlib as PNG files."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarymixing_modules.data.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: Beyond colour, lines are told apart by these.
MARKERS, LINES = "osD^vP", ("-", "--", ":", "-.")


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a picture's n-th line, as arguments of ``plot``."""
    turn, place = divmod(index, len(COLOURS))
    dashes = LINES[turn % len(LINES)]
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": dashes}


@contextmanager
def picture(path: Path, width: float, height: float, dpi: int = 120) -> Iterator[Figure]:
    """An empty figure, inches wide and high; what is drawn in the block replaces the PNG file.

    No display is needed, and none of pyplot's state is touched.
    """
    # Machines that only use models may lack matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # SpeechBrain logs everything at DEBUG level, and matplotlib tells 2000 lines about fonts there.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    png = io.BytesIO()
    figure.savefig(png, dpi=dpi, format="png")
    write_atomically(path, png.getvalue())
