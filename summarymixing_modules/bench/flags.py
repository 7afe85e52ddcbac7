"""Flags of ``summarymixing bench`` and ``summarymixing plan``; imports nothing that takes time."""

from __future__ import annotations

import argparse


def add_bench_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``summarymixing bench``."""
    add = parser.add_argument
    add("--what", choices=("mixers", "encoders", "steps"), default="encoders", help="what is timed")
    add("--encoder", choices=("conformer", "branchformer"), default="conformer")
    add(
        "--attention_type",
        action="append",
        metavar="NAME",
        help="a mixer or a form of one, such as SummaryMixing-lite; repeat it (default: all)",
    )
    lengths = [float(seconds) for seconds in range(10, 101, 10)]
    add(
        "--seconds",
        type=float,
        nargs="+",
        default=lengths,
        metavar="S",
        help="lengths of utterances (default: 10 20 … 100)",
    )
    add(
        "--batch",
        type=int,
        nargs="+",
        default=[6, 1],
        metavar="B",
        help="utterances in a batch (default: 6 1)",
    )
    add(
        "--passes",
        choices=("forward", "both"),
        help="of mixers and encoders: forward only, or forward, and forward + backward (default)",
    )
    add("--padding", type=float, default=0.0, help="share of a batch (default: 0)")
    add("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    add("--compile", action="store_true", help="with torch.compile, every length anew")
    add("--device", help="cpu, cuda, cuda:1, … (default: cuda where there is one)")
    add("--threads", type=int, help="of the CPU (default: PyTorch's)")
    add("--d_model", type=int, default=512, help="features (default: 512)")
    add("--nhead", type=int, default=8, help="heads (default: 8)")
    add("--num_encoder_layers", type=int, help="default: 12 in a Conformer, 18 in a Branchformer")
    add("--dropout", type=float, default=0.0, help="while training (default: 0)")
    add(
        "--matched",
        action="store_true",
        help="choose every width so that the encoder has as many parameters as with RelPosMHAXL "
        "at --d_model",
    )
    add("--rounds", type=int, default=7, help="counted runs of each case (default: 7)")
    add("--warm_up", type=int, default=1, help="runs before those (default: 1)")
    add(
        "--max_memory_gb",
        type=float,
        help="on the CPU: leave out what would need more, in GiB (default: 80 %% of what is free)",
    )
    add("--output", default="results/bench", metavar="FOLDER", help="default: results/bench")
    add(
        "--overwrite",
        action="store_true",
        help="measure anew, in the place of what is in the folder (default: go on with it)",
    )
    add("--compare", metavar="OLD.json", help="bench.json of another run: print now / then")


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``summarymixing plan``."""
    add = parser.add_argument
    add("--gpus", type=int, default=1, help="processes, one for each GPU (default: 1)")
    add(
        "--memory_gb",
        type=float,
        help="of a GPU, in GiB: tells the longest batch (default: this one's)",
    )
    add("--step_seconds", type=float, help="of an optimizer step: tells how long the run takes")
    add("--measure", action="store_true", help="time a few steps on this machine instead")
    add(
        "--utterance_seconds",
        type=float,
        help="of what fills the batches (default: the longest that the recipe takes)",
    )
    add(
        "--corpus_hours",
        type=float,
        help="turns epochs into steps (default: known for LibriSpeech)",
    )
    add("--json", action="store_true", help="for programs")


def plan_parser() -> argparse.ArgumentParser:
    """Reads the flags after the YAML file; those it does not know are the recipe's."""
    parser = argparse.ArgumentParser(prog="summarymixing plan", add_help=False, allow_abbrev=False)
    add_plan_flags(parser)
    return parser
