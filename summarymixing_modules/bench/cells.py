"""Cost of mixers alone.

    python -m summarymixing_modules.bench.cells textbook   # cells against their textbook forms
    python -m summarymixing_modules.bench.cells chunks     # chunk masks against the T×T form
    python -m summarymixing_modules.bench.cells slopes     # growth with T of every mixer

Every case is compared with its naive form first and not timed when it is wrong.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from functools import partial

import torch

from summarymixing_modules.bench.measure import (
    forward_backward,
    kept_bytes,
    log_log_slope,
    paired_ratio,
    time_interleaved,
)
from summarymixing_modules.mixers import (
    Mixer,
    MixerSize,
    PoM,
    SummaryMixing,
    mixer_forms,
)
from summarymixing_modules.mixers.naive import NAIVE, naive_summary_mixing

CHUNK_LENGTHS = (2048, 4096, 8192, 16384)
SLOPE_LENGTHS = (1024, 2048, 4096, 8192, 16384)
QUADRATIC_LENGTHS = (512, 1024, 2048, 4096)


def textbook(rounds: int) -> None:
    """Mixers against the form that their papers write (B = 4, T = 1000).

    SummaryMixing's repeats, concatenates and multiplies by one matrix; PoM's keeps all monomials.
    """
    print("cell | ours | textbook | speed-up | activations kept, ours / textbook")
    cells: dict[str, Mixer] = {
        f"{nhead} head(s)": SummaryMixing(512, nhead, global_dropout=0.0, use_layernorm=False)
        for nhead in (1, 4, 8)
    }
    cells["pom, d = 256"] = PoM(256)
    for name, cell in cells.items():
        naive = partial(NAIVE[type(cell)], cell)
        x_BTD = torch.randn(4, 1000, cell.enc_dim)
        _check("textbook", cell(x_BTD), naive(x_BTD))
        cases = {
            "ours": partial(forward_backward, cell, x_BTD),
            "textbook": partial(forward_backward, naive, x_BTD),
        }
        timings = time_interleaved(cases, rounds)
        x_BTD.requires_grad_()
        ours, theirs = (kept_bytes(partial(form, x_BTD), cell) for form in (cell, naive))
        print(
            f"{name} | {timings['ours']} | {timings['textbook']} | "
            f"{paired_ratio(timings, 'textbook', 'ours'):.2f} | "
            f"{ours / 2**20:.1f} / {theirs / 2**20:.1f} MiB = {ours / theirs:.2f}"
        )


def chunks(rounds: int, lengths: Sequence[int] = CHUNK_LENGTHS, d_model: int = 64) -> None:
    """Chunk masks by sliding sums against the T×T matrix (B = 1)."""
    cell = SummaryMixing(d_model, global_dropout=0.0)
    naive = partial(naive_summary_mixing, cell)
    chunk_size, left = 16, 4
    seen = (None, chunk_size, left)
    seconds, kept = [], []
    print(f"T | O(T) | T×T | speed-up | kept (chunk {chunk_size}, {left} left, d = {d_model})")
    for length in lengths:
        x_BTD = torch.randn(1, length, d_model)
        _check(f"T = {length}", cell(x_BTD, *seen), naive(x_BTD, *seen))
        cases = {
            "fast": partial(forward_backward, cell, x_BTD, *seen),
            "dense": partial(forward_backward, naive, x_BTD, *seen),
        }
        timings = time_interleaved(cases, rounds)
        seconds.append(timings["fast"].median)
        kept.append(kept_bytes(partial(cell, x_BTD.requires_grad_(), *seen), cell))
        print(
            f"{length} | {timings['fast']} | {timings['dense']} | "
            f"{paired_ratio(timings, 'dense', 'fast'):.1f} | {kept[-1] / 2**20:.1f} MiB"
        )
    print(
        f"slope of time {log_log_slope(lengths, seconds):.2f}, "
        f"of memory {log_log_slope(lengths, kept):.2f} (1 = linear)"
    )


def slopes(rounds: int, d_model: int = 64) -> None:
    """Exponents of time and kept memory against T, forward + backward, B = 1."""
    print(f"mixer | claims linear | time ∝ T^p | memory ∝ T^p | ms at the longest (d = {d_model})")
    for form in mixer_forms():
        mixer = form.build(MixerSize(d_model, 4, 4 * d_model))
        linear = mixer.capabilities.linear_time
        lengths = SLOPE_LENGTHS if linear else QUADRATIC_LENGTHS
        inputs = [torch.randn(1, length, d_model) for length in lengths]
        cases = {str(x.shape[1]): partial(forward_backward, mixer, x) for x in inputs}
        timings = time_interleaved(cases, rounds)
        seconds = [min(timings[str(length)].seconds) for length in lengths]
        kept = [kept_bytes(partial(mixer, x.requires_grad_()), mixer) for x in inputs]
        time_slope, memory_slope = (log_log_slope(lengths, v) for v in (seconds, kept))
        longest = f"{1e3 * seconds[-1]:.0f} at T = {lengths[-1]}"
        print(
            f"{form.name} | {linear} | {time_slope:.2f} | {memory_slope:.2f} | {longest}",
            flush=True,
        )


def _check(case: str, got: torch.Tensor, want: torch.Tensor) -> None:
    error = ((got - want).norm() / want.norm()).item()
    if not error < 1e-4:
        sys.exit(f"{case}: differs from its naive form by {error:.1e}, so it is not timed")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["textbook", "chunks", "slopes"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{arguments.threads} thread(s), float32, {arguments.rounds} rounds: median (min–max)"
    )
    {"textbook": textbook, "chunks": chunks, "slopes": slopes}[arguments.what](arguments.rounds)


if __name__ == "__main__":
    main()
