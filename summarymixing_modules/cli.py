"""The ``summarymixing`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from summarymixing_modules._version import __version__
from summarymixing_modules.bench.flags import add_bench_flags, add_plan_flags
from summarymixing_modules.compat import check_environment
from summarymixing_modules.data.shards.flags import add_shard_flags
from summarymixing_modules.errors import TRACEBACK, explain
from summarymixing_modules.tables.arguments import add_arguments, split_flags

INTERRUPTED = 130  # the exit status of what Ctrl-C ends
DEVICE_HELP = "cpu, cuda, cuda:1, … (default: cuda where there is one)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    try:
        check_environment()
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        told = explain(error)
        if told is None or TRACEBACK in os.environ:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, read; ends the process when it means nothing, as argparse does."""
    parser = argparse.ArgumentParser(prog="summarymixing", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_mixers(commands)
    _add_export(commands)
    _add_convert(commands)
    _add_transcribe(commands)
    _add_classify(commands)
    _add_bench(commands)
    _add_plan(commands)
    _add_prepare(commands)
    _add_manifest(commands)
    _add_shard(commands)
    _add_tables(commands)
    own, extra = split_flags(argv)
    return parser.parse_args(own, argparse.Namespace(extra=extra))


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo", help="speak a synthetic corpus, train a small Conformer on it, print its figures"
    )
    demo.add_argument("--attention_type", default="SummaryMixing", help="the token mixer")
    demo.add_argument("--data_folder", default="data/demo", help="where the corpus goes")
    demo.add_argument("--output_folder", default="results/demo", help="where the results go")
    demo.add_argument("--train_sentences", type=int, default=5000, help="size of the corpus")
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


def _add_mixers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    mixers = commands.add_parser("mixers", help="list the token mixers: what they can do, and cost")
    mixers.add_argument("--attention_type", help="this one only, and its options")
    mixers.add_argument("--d_model", type=int, default=512, help="features (default: 512)")
    mixers.add_argument("--nhead", type=int, default=8, help="heads (default: 8)")
    mixers.add_argument("--d_ffn", type=int, default=2048, help="of the host (default: 2048)")
    mixers.add_argument(
        "--frames", type=int, default=1000, help="length at which costs are counted (default: 1000)"
    )
    mixers.add_argument("--json", action="store_true", help="for programs")
    mixers.set_defaults(run=_run_mixers)


def _run_mixers(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.mixers import MixerSize, listing  # imports torch, after the check

    name = arguments.attention_type
    size = MixerSize(arguments.d_model, arguments.nhead, arguments.d_ffn)
    listings = listing.list_mixers(size, arguments.frames, name)
    if arguments.json:
        print(listing.mixers_as_json(listings))
        return 0
    print(listing.mixers_as_text(listings))
    if name is not None:
        print(f"\n{listing.options_as_text(name)}")
    return 0


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export", help="turn a training run into a folder that is safe to share and to load"
    )
    export.add_argument("run_folder", metavar="RUN", help="a training of yours: its YAML is run")
    export.add_argument("target", metavar="DIR", help="the folder to make")
    export.add_argument("--overwrite", action="store_true", help="replace the bundle in DIR")
    export.add_argument(
        "--speechbrain",
        action="store_true",
        help="also write what SpeechBrain's inference classes need",
    )
    export.set_defaults(run=_run_export)


def _run_export(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.bundles import export_bundle  # imports torch, after the check

    target, overwrite = arguments.target, arguments.overwrite
    print(export_bundle(arguments.run_folder, target, overwrite, arguments.speechbrain))
    return 0


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser(
        "convert", help="turn a checkpoint of SpeechBrain into such a folder; none of it is run"
    )
    convert.add_argument("folder", metavar="FOLDER", help="with model.ckpt, or as it is published")
    convert.add_argument("--output", required=True, metavar="DIR", help="the folder to make")
    convert.add_argument("--yaml", metavar="FILE", help="of the model (default: in FOLDER)")
    convert.set_defaults(run=_run_convert)


def _run_convert(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.conversion.command import run_convert  # imports SpeechBrain

    return run_convert(arguments)


def _add_transcribe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    transcribe = commands.add_parser("transcribe", help="write down what is said in audio files")
    add = transcribe.add_argument
    add("files", nargs="*", metavar="FILE", help="audio files, folders or quoted patterns")
    _add_model(transcribe)
    add("--format", choices=("text", "json", "ctm", "srt"), default="text")
    add("--output", metavar="FOLDER", help="a file for each recording (default: the screen)")
    add("--overwrite", action="store_true", help="replace transcripts in --output")
    add("--device", help=DEVICE_HELP)
    add("--batch_seconds", type=float, help="audio in a batch (default: 120)")
    add(
        "--window_seconds",
        type=float,
        help="longer recordings are cut at pauses (default: the longest training utterance)",
    )
    add("--streaming", action="store_true", help="recognise as if it were spoken now")
    add("--chunk_size", type=int, help="of --streaming, in encoder frames (default: 16)")
    add("--left_context_size", type=int, help="of --streaming, in chunks (default: all)")
    add("--microphone", action="store_true", help="with --streaming: what is being said now")
    transcribe.set_defaults(run=_run_transcribe)


def _run_transcribe(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.inference.command import run_transcribe  # imports torch

    return run_transcribe(arguments)


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="PATH", help="a bundle, see `summarymixing export`")
    add(
        "--trust_run",
        action="store_true",
        help="PATH may be a training run of your own: its hyperparams.yaml is run as code",
    )


def _add_classify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    classify = commands.add_parser("classify", help="tell the classes of audio files")
    add = classify.add_argument
    add("files", nargs="+", metavar="FILE", help="audio files, folders or quoted patterns")
    _add_model(classify)
    add("--format", choices=("text", "json"), default="text")
    add("--top", type=int, default=1, metavar="N", help="the N likeliest classes (default: 1)")
    add("--device", help=DEVICE_HELP)
    add("--batch_seconds", type=float, help="audio in a batch (default: 120)")
    add(
        "--max_seconds",
        type=float,
        help="longer recordings are refused (default: 30, or the longest training utterance)",
    )
    classify.set_defaults(run=_run_classify)


def _run_classify(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.inference.command import run_classify  # imports torch

    return run_classify(arguments)


def _add_tables(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tables = commands.add_parser(
        "tables", help="the papers' tables: run their recipes, compare the figures"
    )
    add_arguments(tables)
    tables.set_defaults(run=_run_tables)


def _run_tables(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.tables.command import run_tables  # imports SpeechBrain

    return run_tables(arguments)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser("bench", help="time mixers, encoders or training steps over length")
    add_bench_flags(bench)
    bench.set_defaults(run=_run_bench)


def _run_bench(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.bench.command import run_bench  # imports SpeechBrain

    return run_bench(arguments)


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="what a recipe will want: parameters, memory, steps, time",
        usage="%(prog)s RECIPE.yaml [--KEY=VALUE of the recipe ...] [OPTION ...]",
    )
    plan.add_argument("recipe", metavar="RECIPE.yaml", help="nothing of the corpus is needed")
    add_plan_flags(plan)
    plan.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    plan.set_defaults(run=_run_plan)


def _run_plan(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.bench.plan import run_plan  # imports SpeechBrain

    return run_plan(arguments)


def _add_prepare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="the corpus of a recipe, in one process, before a training takes any GPU",
        usage="%(prog)s RECIPE.yaml --data_folder=FOLDER [--KEY=VALUE of the recipe ...]",
    )
    prepare.add_argument(
        "recipe", metavar="RECIPE.yaml", help="give the flags of the training, too"
    )
    prepare.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    prepare.set_defaults(run=_run_prepare)


def _run_prepare(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.training.recipe.prepare import run_prepare  # imports SpeechBrain

    return run_prepare(arguments.recipe, arguments.flags)


def _add_manifest(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    manifest = commands.add_parser(
        "manifest", help="a table for --corpus=manifest of what other programs keep"
    )
    add = manifest.add_argument
    add(
        "source", metavar="SOURCE", help="a folder of Hugging Face's save_to_disk, or Lhotse's cuts"
    )
    add("--from", dest="kind", required=True, choices=("hf", "lhotse"), help="what wrote it")
    add("--out", required=True, metavar="TABLE", help="the table to write, as JSON lines")
    manifest.set_defaults(run=_run_manifest)


def _run_manifest(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.data.table_sources import write_table  # imports torch

    table = Path(arguments.out)
    rows = write_table(arguments.kind, Path(arguments.source), table)
    print(f"{table}: {rows} rows. Train with --corpus=manifest --train_manifest={table}")
    return 0


def _add_shard(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    shard = commands.add_parser(
        "shard",
        help="the corpus of a recipe as a few large tar files, for file systems of clusters",
        usage="%(prog)s RECIPE.yaml --data_folder=FOLDER [--KEY=VALUE of the recipe ...] "
        "--shards FOLDER [OPTION ...]\n       %(prog)s --verify FOLDER",
    )
    shard.add_argument(
        "recipe", metavar="RECIPE.yaml", nargs="?", help="give the flags of its corpus, too"
    )
    add_shard_flags(shard)
    shard.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    shard.set_defaults(run=_run_shard)


def _run_shard(arguments: argparse.Namespace) -> int:
    from summarymixing_modules.training.data.shards import run_shard  # imports SpeechBrain

    return run_shard(arguments)


if __name__ == "__main__":
    sys.exit(main())
