"""The ``summarymixing`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from summarymixing_modules._version import __version__
from summarymixing_modules.compat import UnsupportedEnvironmentError, check_environment
from summarymixing_modules.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(prog="summarymixing", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    arguments = parser.parse_args(argv)
    try:
        check_environment()
        return int(arguments.run(arguments))
    except (InputError, UnsupportedEnvironmentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo", help="speak a synthetic corpus, train a small Conformer on it, print its figures"
    )
    demo.add_argument("--attention_type", default="SummaryMixing", help="the token mixer")
    demo.add_argument("--data_folder", default="data/demo", help="where the corpus goes")
    demo.add_argument("--output_folder", default="results/demo", help="where the results go")
    demo.add_argument("--train_sentences", type=int, default=3750, help="size of the corpus")
    demo.add_argument("--training_steps", type=int, help="optimizer steps (default: the recipe's)")
    demo.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.demo import run_demo  # imports SpeechBrain, after the check

    return run_demo(
        arguments.data_folder,
        arguments.output_folder,
        arguments.attention_type,
        arguments.train_sentences,
        arguments.training_steps,
    )


if __name__ == "__main__":
    sys.exit(main())
