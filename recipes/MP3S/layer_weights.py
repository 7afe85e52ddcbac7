"""What the layers of encoders hold: the layer weights that probes have learnt, drawn and as CSV.

    python layer_weights.py results/mp3s_summarymixing results/mp3s_mha --output_folder=layers

Folders are searched for runs of train.py. One picture and one CSV file for each task and probe, one
line for each encoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from summarymixing_modules.probing.layer_figures import find_probes, write_layer_weights
from summarymixing_modules.training.recipe.config import run


def main(argv: Sequence[str]) -> None:
    """Draws the weights of every run found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", help="output folders of train.py, or of a table")
    parser.add_argument("--output_folder", default="layer_weights", help="where pictures go")
    arguments = parser.parse_args(argv)
    for path in write_layer_weights(find_probes(arguments.folders), arguments.output_folder):
        print(path)


if __name__ == "__main__":
    run(main)
