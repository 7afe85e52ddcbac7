"""Cost of the BEST-RQ quantiser against SpeechBrain's.

    python -m summarymixing_modules.bench.quantiser --frames 512

Both get the same projection and codes, and must agree before they are timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch
from speechbrain.nnet.quantisers import RandomProjectionQuantizer

from summarymixing_modules.bench.measure import paired_ratio, peak_bytes, time_interleaved
from summarymixing_modules.models.ssl.random_projection import random_projection_codes

FEATURES, CODES, CODE_DIM = 320, 8192, 16


def main(argv: Sequence[str] | None = None) -> None:
    """Prints seconds and peak memory of both, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=512, help="encoder frames in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    theirs = RandomProjectionQuantizer(FEATURES, CODE_DIM, CODES)
    frames_1MF = torch.randn(1, arguments.frames, FEATURES)
    ours = partial(random_projection_codes, frames_1MF[0], theirs.P[None], theirs.CB[None])
    cases = {"ours": ours, "SpeechBrain": partial(theirs, frames_1MF)}
    agree = (ours()[:, 0] == theirs(frames_1MF)[0]).float().mean().item()
    if agree < 0.999:  # theirs compares in float32: near ties may differ
        sys.exit(f"the codes agree in {100 * agree:.1f} % of the frames only, so nothing is timed")
    timings = time_interleaved(cases, arguments.rounds)
    peaks = {name: peak_bytes(run) for name, run in cases.items()}
    print(f"{arguments.frames} frames, {CODES} codes of {CODE_DIM}: codes agree in {agree:.2%}")
    for name in cases:
        print(f"{name} | {timings[name]} | peak {peaks[name] / 2**20:.1f} MiB")
    speed_up = paired_ratio(timings, "SpeechBrain", "ours")
    print(f"speed-up {speed_up:.1f}, peak memory 1/{peaks['SpeechBrain'] / peaks['ours']:.1f}")


if __name__ == "__main__":
    main()
